"""Long texts in overlapping windows of a tokenizer's pieces, each piece with its place in the text.

What is trained on and what is asked are cut by the same lines, so a piece has the same neighbours in both.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tokenizers import Encoding, Tokenizer

from feilun.errors import SettingError
from feilun.models import tokens

LEAST = 16  # tokens of context: below that a window is mostly its own edges
FIRST_MARK = "\u0300"  # no character before it is a mark
JOINER = "\u200d"  # of emoji, and of letters: Unicode counts it as a format, not as a mark
OVERLAP = 4  # two neighbours share a window's width divided by this


@dataclass(frozen=True)
class Pieces:
    """All pieces of one text: their ids, and of which characters each is, ``starts[i]`` to ``ends[i]`` (excluded).

    White space around a piece is not part of it; one that is nothing else has its end where it starts. A mark that no
    piece holds, as tokenizers leave accents out, belongs to the piece before it.
    """

    ids: list[int]
    starts: list[int]
    ends: list[int]


@dataclass(frozen=True)
class Window:
    """Ids of one window of row ``row``, special tokens and what leads it included.

    ``ids[at + i]`` is the text's piece ``first + i``, for ``i`` below ``size``. ``own`` are the numbers of the pieces
    that no other window of the row answers for: those that lie deeper in this one than in its neighbours.
    """

    row: int
    ids: list[int]
    at: int
    first: int
    size: int
    own: range


def cut(
    tokenizer: Tokenizer, texts: Sequence[str], leads: Sequence[str] | None = None
) -> tuple[list[Pieces], list[Window]]:
    """The pieces of each text, and windows over them, no longer than the tokenizer's context; a text has one at least.

    Args:
        leads: what stands before each text in each of its windows, such as a question; it is cut at half the context.

    Raises:
        SettingError: the context is below ``LEAST``.
    """
    context = tokens.context_of(tokenizer)
    if context < LEAST:
        raise SettingError(
            f"a context of {context} tokens is too short to find places in a text",
            where="finetune: context",
            hint=f"use context = {LEAST} or more",
        )
    before, between, after = _special(tokenizer, pair=leads is not None)
    pieces = [_pieces(text, e) for text, e in zip(texts, _encoded(tokenizer, texts), strict=True)]
    heads: list[list[int]] = [[]] * len(texts)
    if leads is not None:
        heads = [e.ids[: context // 2 - len(before) - len(between)] for e in _encoded(tokenizer, leads)]
    found = []
    for row, (whole, head) in enumerate(zip(pieces, heads, strict=True)):
        opening = [*before, *head, *between]
        for first, last, own in spread(len(whole.ids), context - len(opening) - len(after)):
            ids = [*opening, *whole.ids[first:last], *after]
            found.append(Window(row, ids, len(opening), first, last - first, own))
    return pieces, found


def spread(length: int, width: int) -> Iterator[tuple[int, int, range]]:
    """(first, last, own) of windows over ``length`` pieces; own parts are all pieces, each once, in order.

    >>> list(spread(10, 8))
    [(0, 8, range(0, 5)), (2, 10, range(5, 10))]
    >>> list(spread(3, 8))
    [(0, 3, range(0, 3))]
    """
    step = width - width // OVERLAP
    firsts = [*range(0, max(0, length - width), step), max(0, length - width)]
    begun = 0
    for number, first in enumerate(firsts):
        last = min(first + width, length)
        # half of what two windows share is nearer to the edge of the one, half to that of the other
        end = length if number + 1 == len(firsts) else (last + firsts[number + 1]) // 2
        yield first, last, range(begun, end)
        begun = end


def _special(tokenizer: Tokenizer, *, pair: bool) -> tuple[list[int], list[int], list[int]]:
    """What the tokenizer puts before, between and after one text or two; nothing is between where there is one."""
    probe = tokenizer.encode("a", "a") if pair else tokenizer.encode("a")
    last = 1 if pair else 0
    groups: tuple[list[int], list[int], list[int]] = ([], [], [])
    seen = -1
    for token, sequence in zip(probe.ids, probe.sequence_ids, strict=True):
        if sequence is not None:
            seen = sequence
        else:
            groups[0 if seen < 0 else 2 if seen == last else 1].append(token)
    return groups


def _encoded(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Encoding]:
    found: list[Encoding] = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    return found


def _pieces(text: str, encoding: Encoding) -> Pieces:
    """What was cut off at the context hangs on the encoding, in order and without overlap."""
    ids, starts, ends = [], [], []
    for part in (encoding, *encoding.overflowing):
        for token, (start, end) in zip(part.ids, part.offsets, strict=True):
            covered = text[start:end]
            ids.append(token)
            starts.append(start + len(covered) - len(covered.lstrip()))
            ends.append(max(starts[-1], end - len(covered) + len(covered.rstrip())))
    begun = set(starts)
    return Pieces(
        ids, starts, [_marked(text, end, begun) if a < end else end for a, end in zip(starts, ends, strict=True)]
    )


def _marked(text: str, end: int, begun: set[int]) -> int:
    """Where the last character ends with the marks on it: accents, vowel signs, selectors and joiners of emoji."""
    while end < len(text) and text[end] >= FIRST_MARK and end not in begun:
        if text[end] != JOINER and not unicodedata.category(text[end]).startswith("M"):
            break
        end += 1
    return end
