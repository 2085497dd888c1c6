"""Texts as they should have been written; places in them move along."""

from __future__ import annotations

import html
import re
import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Sequence

ESCAPED = 3  # how often a text may have been escaped: scraped ones often were twice
_SPACE = re.compile(r"\s+")
# Control characters but tab and line ends; byte-order marks, soft hyphens, zero-width spaces and direction overrides.
# Joiners (U+200C, U+200D) stay: Persian and emoji need them.
_HIDDEN = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u200b\u202a-\u202e\u2060\u2066-\u2069\ufeff]")
_ENTITY = re.compile(r"&(?:#[0-9]+;?|#[xX][0-9a-fA-F]+;?|[^\t\n\f <&#;]{1,32};?)")  # what html.unescape looks at
# A character that may merge with the one before it when Unicode is composed; marks by category, these by their place.
_JOINING = re.compile(r"[\u1160-\u11ff\U00016d63-\U00016d6a]")


def repair(text: str) -> str:
    """HTML entities resolved, Unicode composed (NFC), hidden characters dropped, white space made one space.

    >>> repair(" caf&eacute;\\u200b  &amp;amp; bar\\n")
    'café & bar'
    """
    text = _HIDDEN.sub("", text)
    for _ in range(ESCAPED):
        if "&" in text:
            text = _HIDDEN.sub("", html.unescape(text))
    return _SPACE.sub(" ", text if text.isascii() else unicodedata.normalize("NFC", text)).strip()


def repair_lines(text: str) -> str:
    """Hidden characters dropped, Unicode composed, line ends made one character: for what a model shall write itself.

    White space and entities stay, for code and tables are made of them.

    >>> repair_lines("if a &lt; b:\\r\\n\\treturn\\n")
    'if a &lt; b:\\n\\treturn'
    """
    return unicodedata.normalize("NFC", _HIDDEN.sub("", text).replace("\r\n", "\n").replace("\r", "\n")).strip()


class Moved:
    """A repaired text that remembers where its characters stood.

    ``text`` equals ``repair`` of the original.
    """

    def __init__(self, original: str) -> None:
        self.text = repair(original)
        self._came_from: Sequence[int] = range(len(original))
        if self.text != original:
            self._came_from = _traced(original)[1]

    def place(self, start: int, end: int) -> tuple[int, int] | None:
        """Where characters ``start`` to ``end`` (excluded) of the original are now, without white space around them.

        None where none of them is left.
        """
        first, last = bisect_left(self._came_from, start), bisect_left(self._came_from, end)
        while first < last and self.text[first].isspace():
            first += 1
        while first < last and self.text[last - 1].isspace():
            last -= 1
        return (first, last) if first < last else None


def _traced(text: str) -> tuple[str, list[int]]:
    """``repair`` again, one replacement at a time: the text, and for each character where what it came from began."""
    traced = _replace(text, list(range(len(text))), _HIDDEN, lambda found: "")
    for _ in range(ESCAPED):
        traced = _replace(*traced, _ENTITY, html.unescape)
        traced = _replace(*traced, _HIDDEN, lambda found: "")
    traced = _replace(*_composed(*traced), _SPACE, lambda found: " ")
    start = len(traced[0]) - len(traced[0].lstrip())
    end = len(traced[0].rstrip())
    return traced[0][start:end], traced[1][start:end]


def _replace(
    text: str, came_from: list[int], pattern: re.Pattern[str], change: Callable[[str], str]
) -> tuple[str, list[int]]:
    parts: list[str] = []
    origin: list[int] = []
    end = 0
    for found in pattern.finditer(text):
        new = change(found[0])
        parts += [text[end : found.start()], new]
        origin += came_from[end : found.start()] + _spread(came_from, found.start(), found[0], new)
        end = found.end()
    return "".join([*parts, text[end:]]), origin + came_from[end:]


def _spread(came_from: list[int], start: int, old: str, new: str) -> list[int]:
    """An entity that is none stands as it is; any other replacement came from where the old characters began."""
    return came_from[start : start + len(old)] if new == old else [came_from[start]] * len(new)


def _composed(text: str, came_from: list[int]) -> tuple[str, list[int]]:
    parts: list[str] = []
    origin: list[int] = []
    start = 0
    for place in range(1, len(text) + 1):
        if place < len(text) and _joins(text[place]):
            continue
        new = unicodedata.normalize("NFC", text[start:place])
        parts.append(new)
        origin += _spread(came_from, start, text[start:place], new)
        start = place
    return "".join(parts), origin


def _joins(character: str) -> bool:
    return unicodedata.category(character)[0] == "M" or bool(_JOINING.match(character))
