"""Text to token ids, and rows of ids to rectangles that waste little.

A model's folder says everything: ``tokenizer.json`` carries the context (its truncation), ``config.json`` the labels.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from feilun.errors import ArtifactError

Rows = Sequence[Sequence[int]]
WIDTH = 8  # a row is padded to the next multiple of this
TOKENS = 512  # padded tokens in one rectangle at the most: what is between the layers should stay in the core's cache


def load_tokenizer(folder: Path, context: int | None = None) -> Tokenizer:
    """The folder's tokenizer, without padding, cut at ``context`` tokens (its own truncation by default).

    Raises:
        ArtifactError: no tokenizer.json, or not one that the tokenizers library reads, or no context anywhere.
    """
    place = folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_str(place.read_text("utf-8"))
    except Exception as error:  # the library raises bare Exception for whatever it cannot read
        raise ArtifactError("the tokenizer cannot be read", where=str(place), hint=str(error)[:200]) from error
    length = context or context_of(tokenizer)
    if not length:
        raise ArtifactError("the tokenizer does not say how long a text may be", where=str(place))
    tokenizer.no_padding()
    tokenizer.enable_truncation(length)
    return tokenizer


def load_head(folder: Path) -> str:
    """The name of the head (``feilun.models.shapes.SHAPES``) that config.json says the model has.

    Raises:
        ArtifactError: see ``told``.
    """
    return str(told(folder).get("head", "label"))


def load_decided(folder: Path) -> dict[str, Any]:
    """What the task chose after the training, for its answers (thresholds, say), from config.json.

    Raises:
        ArtifactError: see ``told``.
    """
    return _record(told(folder).get("decided", {}), folder)


def load_labels(folder: Path) -> tuple[str, ...]:
    """The labels in the order of the scores, from config.json's ``id2label``; none for a model without a head.

    Raises:
        ArtifactError: config.json is missing or is not JSON.
    """
    names = configuration(folder).get("id2label", {})
    try:
        return tuple(str(names[str(i)]) for i in range(len(names)))
    except (KeyError, TypeError) as error:
        raise ArtifactError("the model's labels cannot be read", where=str(folder / "config.json")) from error


def told(folder: Path) -> dict[str, Any]:
    """What config.json says under our name: task, head, context, decided, adapter; nothing in a model of others.

    Raises:
        ArtifactError: config.json is missing or is not JSON, or something else stands there.
    """
    return _record(configuration(folder).get("feilun", {}), folder)


def configuration(folder: Path) -> dict[str, Any]:
    """All of config.json.

    Raises:
        ArtifactError: it is missing or is not JSON.
    """
    place = folder / "config.json"
    try:
        read = json.loads(place.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError("the model's configuration cannot be read", where=str(place)) from error
    return _record(read, folder)


def _record(read: Any, folder: Path) -> dict[str, Any]:
    if not isinstance(read, dict):
        raise ArtifactError("the model's configuration cannot be read", where=str(folder / "config.json"))
    return read


def context_of(tokenizer: Tokenizer) -> int:
    """The most tokens that a text is read to; 0 where the tokenizer does not say."""
    return int((tokenizer.truncation or {}).get("max_length", 0))


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Token ids with the special ones, at most the context of each text, and never none.

    Where a tokenizer adds nothing, a text without a piece is read as its first special token (as id 0 without one):
    there is no mean of no states. Training and serving both ask here.
    """
    rows = [e.ids for e in tokenizer.encode_batch_fast(list(texts))]
    return rows if all(rows) else [row or _nothing(tokenizer) for row in rows]


def _nothing(tokenizer: Tokenizer) -> list[int]:
    added = tokenizer.get_added_tokens_decoder()
    return [min((number for number, token in added.items() if token.special), default=0)]


def encode_pairs(tokenizer: Tokenizer, texts: Sequence[str], others: Sequence[str]) -> list[list[int]]:
    """Token ids of each text and the one that belongs to it, with a separator; the longer one is cut first.

    Raises:
        ArtifactError: the tokenizer does not say what stands between two texts.
    """
    if not tokenizer.num_special_tokens_to_add(is_pair=True):
        raise ArtifactError("the tokenizer has no separator for two texts", hint="use a base that reads pairs")
    opening, between, closing = _around_pairs(tokenizer)
    room = context_of(tokenizer) - len(opening) - len(between) - len(closing)
    shown = list(dict.fromkeys([*texts, *others]))
    encoded = tokenizer.encode_batch_fast(shown, add_special_tokens=False)
    ids = {text: encoding.ids for text, encoding in zip(shown, encoded, strict=True)}
    whole = {text: sum(map(len, (e, *e.overflowing))) for text, e in zip(shown, encoded, strict=True)}
    rows = []
    for text, other in zip(texts, others, strict=True):
        first, second = _shares(whole[text], whole[other], room)
        rows.append([*opening, *ids[text][:first], *between, *ids[other][:second], *closing])
    return rows


def _shares(one: int, other: int, room: int) -> tuple[int, int]:
    """How many tokens of each of two texts are kept, as the tokenizers library cuts the longer one first.

    The library itself makes every window of the one with every window of the other on its way, which for two texts of
    20,000 characters takes minutes.
    """
    if one + other <= room:
        return one, other
    least = min(one, other)
    most = max(least, room - least)
    if least + most > room:
        least, most = room // 2, room - room // 2
    return (least, most) if one <= other else (most, least)


def _around_pairs(tokenizer: Tokenizer) -> tuple[list[int], list[int], list[int]]:
    """What the tokenizer puts before, between and after two texts."""
    probe = tokenizer.encode("a", "a")
    places = [place for place, sequence in enumerate(probe.sequence_ids) if sequence is not None]
    second = probe.sequence_ids.index(1)
    last = max(place for place in places if place < second)
    return probe.ids[: places[0]], probe.ids[last + 1 : second], probe.ids[places[-1] + 1 :]


def rectangles(lengths: Sequence[int], context: int) -> Iterator[tuple[list[int], int]]:
    """(row numbers, width) of rectangles that hold every row once; none is wider than the context.

    A row's width depends on its own length alone. So it meets the same arithmetic, and gets the same scores to the last
    bit, whatever else is asked at the same time (measured: a shared width moves int8 scores by up to 0.013).

    >>> list(rectangles([3, 20, 4], context=22))
    [([0, 2], 8), ([1], 22)]
    """
    groups: dict[int, list[int]] = {}
    for row, length in enumerate(lengths):
        groups.setdefault(min(width(length), context), []).append(row)
    for wide, rows in sorted(groups.items()):
        most = max(1, TOKENS // wide)
        for start in range(0, len(rows), most):
            yield rows[start : start + most], wide


def width(length: int) -> int:
    """How wide a row of so many tokens is padded, where the context allows it.

    >>> [width(length) for length in (0, WIDTH, WIDTH + 1)] == [WIDTH, WIDTH, 2 * WIDTH]
    True
    """
    return -(-max(length, 1) // WIDTH) * WIDTH


def pad(rows: Rows, width: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids and mask, both (N, width); padding is id 0 under mask 0, which no output depends on."""
    ids = np.zeros((len(rows), width), np.int64)
    mask = np.zeros((len(rows), width), np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return ids, mask


def run_in_rectangles(
    rows: Rows, context: int, score: Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]
) -> list[NDArray[np.float32]]:
    """Each row's scores, in the order of ``rows``: (C,), or (its tokens, C) where each token has its own.

    Args:
        score: from ids and mask of one rectangle, (N, L), to scores, (N, C) or (N, L, C).
    """
    scores: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(rows)
    for chosen, wide in rectangles([len(r) for r in rows], context):
        give(scores, rows, chosen, score(*pad([rows[i] for i in chosen], wide)))
    return scores


def give(scores: list[NDArray[np.float32]], rows: Rows, chosen: Sequence[int], found: NDArray[np.float32]) -> None:
    """Put what was found for the rows of a rectangle, (N, C) or (N, L, C), where it belongs."""
    for i, one in zip(chosen, found, strict=True):
        scores[i] = one.copy() if one.ndim == 1 else one[: len(rows[i])].copy()
