"""Texts that hardly anybody else could have written: most of their words are used by one contributor alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_WORD = re.compile(r"[^\W\d_]+")
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\u3040-\u30ff]+")


def rare(rows: Sequence[tuple[str, str]]) -> list[bool]:
    """For each (contributor, text): whether more than half of its pieces are in no other contributor's texts.

    >>> rare([("ann", "a fine film"), ("bob", "a fine film"), ("cleo", "my uncle's boat sank")])
    [False, False, True]
    """
    users: dict[str, str | None] = {}  # piece -> its only contributor, None where there are several
    split = [set(pieces(text)) for _, text in rows]
    for (contributor, _), own in zip(rows, split, strict=True):
        for piece in own:
            users[piece] = contributor if users.get(piece, contributor) == contributor else None
    return [sum(users[piece] is not None for piece in own) * 2 > len(own) for own in split]


def pieces(text: str) -> Iterable[str]:
    """Words, without regard to case; of Chinese and Japanese, which have no spaces, every two characters."""
    for match in _WORD.finditer(text.casefold()):
        word = match[0]
        if _HAN.fullmatch(word) and len(word) > 1:
            yield from (word[i : i + 2] for i in range(len(word) - 1))
        else:
            yield word
