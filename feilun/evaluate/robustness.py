"""The same rows, worse written: what a model loses by typos, by casing, by missing words."""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from feilun.evaluate.asking import Asked, again, same
from feilun.evaluate.figures import Bootstrap, with_interval
from feilun.tasks import bootstrap

if TYPE_CHECKING:
    import polars as pl

Change = Callable[[str, random.Random], str]
IN_PLACE = "typos in place"  # instead of the others, where places are marked
RATE = 0.05  # of the characters that get a typo
ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")  # of the keyboard that most people have
NEAR = {key: (row[:i][-1:] + row[i + 1 :][:1]) for row in ROWS for i, key in enumerate(row)}  # the keys beside each


def measure(asked: Asked, how: Bootstrap) -> list[dict[str, Any]]:
    """The first metric under each change of the texts, how much it falls, and how many answers change.

    Texts in which places are marked (``spans``) only meet changes that keep every character where it is. Of a
    conversation what the user said last is changed.
    """
    first = asked.metrics[0]
    kept_in_place = "spans" in asked.frame.columns
    found = []
    for name, (change, keeps) in CHANGES.items():
        if (kept_in_place and not keeps) or (name == IN_PLACE and not kept_in_place):
            continue
        given = _given(asked.frame)
        texts = [change(text, _chance(how.seed, id_)) for id_, text in zip(asked.frame["id"], given, strict=True)]
        changed = [a != b for a, b in zip(texts, given, strict=True)]
        if not any(changed):
            continue
        told = again(asked, _reworded(asked.frame, texts))
        worse = next(m for m in told.metrics if m.name == first.name)
        if not math.isfinite(worse.figure):
            continue
        before, after = bootstrap.draws([first, worse], how.resamples, how.seed)
        entry: dict[str, Any] = {
            "change": name,
            "changed_texts": sum(changed) / len(changed),
            first.name: with_interval(worse.figure, bootstrap.interval(after)),
            "difference": with_interval(worse.figure - first.figure, bootstrap.interval(after - before)),
        }
        agree = same(asked.answered, told.answered)
        found.append(entry | ({"changed_answers": float(1 - agree.mean())} if agree is not None else {}))
    return found


def _given(frame: pl.DataFrame) -> list[str]:
    """What each row asks."""
    if "messages" not in frame.columns:
        return frame["text"].to_list()
    rows = frame["messages"].to_list()
    return ["" if (at := _last(row)) is None else str(row[at]["content"]) for row in rows]


def _reworded(frame: pl.DataFrame, texts: Sequence[str]) -> pl.DataFrame:
    """The rows with other words for what ``_given`` finds."""
    import polars as pl

    if "messages" not in frame.columns:
        return frame.with_columns(text=pl.Series(texts))
    rows = frame["messages"].to_list()
    for row, text in zip(rows, texts, strict=True):
        if (at := _last(row)) is not None:
            row[at]["content"] = text
    return frame.with_columns(messages=pl.Series(rows, dtype=frame["messages"].dtype))


def _last(messages: Sequence[Mapping[str, str]]) -> int | None:
    """Where the user spoke last."""
    return max((i for i, message in enumerate(messages) if message["role"] == "user"), default=None)


def _chance(seed: int, row: str) -> random.Random:
    """Each row meets the same change whatever other rows there are."""
    return random.Random(zlib.crc32(f"{seed} {row}".encode()))  # noqa: S311 - nothing secret


def typos(text: str, chance: random.Random, *, in_place: bool = False) -> str:
    """About one character in twenty swapped with the next, struck beside its key, left out or doubled.

    In Chinese text, where a typo is another character, characters are swapped, left out or doubled.

    Args:
        in_place: only swaps and wrong keys, so that no character moves by more than one.
    """
    made = list(text)
    kinds = ("swap", "near") if in_place else ("swap", "near", "drop", "double")
    for i in range(len(made)):
        if not made[i].isalpha() or len(made[i]) != 1 or chance.random() >= RATE:
            continue
        kind = chance.choice(kinds)
        if kind == "near" and made[i].lower() in NEAR:
            made[i] = chance.choice(NEAR[made[i].lower()])
        elif kind == "drop":
            made[i] = ""
        elif kind == "double":
            made[i] *= 2
        elif i + 1 < len(made) and made[i + 1].isalpha():
            made[i], made[i + 1] = made[i + 1], made[i]
    return "".join(made) if "".join(made).strip() else text


def _case(letter: Callable[[str], str]) -> Change:
    def change(text: str, chance: random.Random) -> str:
        # a letter whose other case has two characters stays, so that places in the text do not move
        return "".join(letter(c) if len(letter(c)) == 1 else c for c in text)

    return change


def _unpunctuated(text: str, chance: random.Random) -> str:
    bare = "".join(c for c in text if c.isalnum() or c.isspace())
    return bare if bare.strip() else text


def _some_words(text: str, chance: random.Random) -> str:
    return _some(text, lambda parts: [p for p in parts if chance.random() >= 0.1])


def _first_half(text: str, chance: random.Random) -> str:
    return _some(text, lambda parts: parts[: -(-len(parts) // 2)])


def _swapped_words(text: str, chance: random.Random) -> str:
    def swap(parts: Sequence[str]) -> Sequence[str]:
        made = list(parts)
        for i in range(len(made) - 1):
            if chance.random() < 0.1:
                made[i], made[i + 1] = made[i + 1], made[i]
        return made

    return _some(text, swap)


def _some(text: str, choose: Callable[[Sequence[str]], Sequence[str]]) -> str:
    """Words chosen anew; of a text that is written without spaces, characters."""
    words = text.split()
    gap, parts = (" ", words) if len(words) > max(1, len(text) // 20) else ("", list(text))
    return gap.join(choose(parts)).strip() or text


CHANGES: dict[str, tuple[Change, bool]] = {  # what it does; whether every character stays where it is
    "typos": (typos, False),
    IN_PLACE: (lambda text, chance: typos(text, chance, in_place=True), True),
    "lower case": (_case(str.lower), True),
    "upper case": (_case(str.upper), True),
    "no punctuation": (_unpunctuated, False),
    "a tenth of the words missing": (_some_words, False),
    "neighbouring words swapped": (_swapped_words, False),
    "the first half only": (_first_half, False),
}
