"""Patterns of e-mail, web and IP addresses, phone, identity and card numbers, masked in texts that leave the house.

English and Chinese forms, in half and full width. Patterns find forms, not people: names, places and whatever a text
tells of its author stay. So what is published is what share of a written corpus they find, never 'anonymous'.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from math import sqrt
from typing import Any, NamedTuple

from feilun.bill.masking_corpus import CORPUS

_NARROW = {wide: wide - 0xFEE0 for wide in range(0xFF01, 0xFF5F)} | {0x3000: 0x20, 0x3002: 0x2E, 0x2010: 0x2D}
_START, _END = r"(?<![0-9A-Za-z])", r"(?![0-9A-Za-z])"  # \b will not do: Chinese letters count as letters
_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)+[A-Za-z]{2,24}"
_SEP = r"[ .\-]?"
_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)


class Pattern(NamedTuple):
    """What an entity looks like, and a check that a match has to pass."""

    entity: str
    form: re.Pattern[str]
    holds: Callable[[str], bool]


class Recall(NamedTuple):
    """How many of the corpus's entities are found, with a 95 % interval (Wilson 1927), and those that are missed."""

    found: int
    of: int
    low: float
    high: float
    missed: tuple[str, ...]


def mask(text: str) -> tuple[str, Counter[str]]:
    """The text with each match replaced by its entity's name, and how many of each there were.

    >>> mask("写信给 ann@example.com 或打 13800138000")[0]
    '写信给 [EMAIL] 或打 [PHONE]'
    """
    found = spans(text)
    for start, end, entity in reversed(found):
        text = f"{text[:start]}[{entity.upper()}]{text[end:]}"
    return text, Counter(entity for _, _, entity in found)


def spans(text: str) -> list[tuple[int, int, str]]:
    """Start, end and entity of each match, in order, none within another; the pattern that is named first wins."""
    narrow = text.translate(_NARROW)  # one character for one, so that places stay
    found: list[tuple[int, int, str]] = []
    for pattern in PATTERNS:
        for match in pattern.form.finditer(narrow):
            start, end = match.span()
            if pattern.holds(match[0]) and all(end <= s or start >= e for s, e, _ in found):
                found.append((start, end, pattern.entity))
    return sorted(found)


def recall(corpus: Sequence[tuple[str, str, str]] = CORPUS) -> dict[str, Recall]:
    """What share of the corpus's entities are wholly masked, by entity and language (``email/zh``)."""
    results: dict[str, list[tuple[bool, str]]] = {}
    for entity, language, marked in corpus:
        before, secret, after = marked.split("|")
        start, end = len(before), len(before) + len(secret)
        hit = any(s <= start and end <= e for s, e, _ in spans(before + secret + after))
        results.setdefault(f"{entity}/{language}", []).append((hit, secret))
    return {name: _recall(rows) for name, rows in sorted(results.items())}


def described(figures: dict[str, Recall]) -> dict[str, Any]:
    """The figures as plain values, for a card."""
    return {name: figure._asdict() for name, figure in figures.items()}


def _recall(rows: Sequence[tuple[bool, str]]) -> Recall:
    found, count, z = sum(hit for hit, _ in rows), len(rows), 1.959964
    share = found / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    width = z * sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    missed = tuple(secret for hit, secret in rows if not hit)
    return Recall(found, count, round(max(0.0, middle - width), 4), round(min(1.0, middle + width), 4), missed)


def _any(match: str) -> bool:
    return True


def _is_address(match: str) -> bool:
    try:
        ip_address(match)
    except ValueError:
        return False
    return True


def _is_resident(match: str) -> bool:
    """The check digit of a Chinese resident identity number (GB 11643-1999)."""
    total = sum(int(digit) * weight for digit, weight in zip(match[:17], _WEIGHTS, strict=True))
    return "10X98765432"[total % 11] == match[17].upper()


def _is_card(match: str) -> bool:
    """The check digit of card numbers (ISO/IEC 7812-1, Luhn)."""
    digits = [int(c) for c in match if c.isdigit()]
    if not 13 <= len(digits) <= 19 or len(set(digits)) == 1:
        return False
    doubled = [d if i % 2 == 0 else (2 * d - 9 if d > 4 else 2 * d) for i, d in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0


def _is_phone(match: str) -> bool:
    return 7 <= sum(c.isdigit() for c in match) <= 15


def _pattern(entity: str, form: str, holds: Callable[[str], bool] = _any) -> Pattern:
    return Pattern(entity, re.compile(form, re.ASCII), holds)


PATTERNS = (
    _pattern("email", rf"{_START}[A-Za-z0-9._%+\-]+ ?@ ?{_HOST}{_END}"),
    _pattern("url", rf"{_START}(?:https?|ftp)://[^\s<>\"'，。；、）】]+"),
    _pattern("url", rf"{_START}www\.{_HOST}(?:/[^\s<>\"'，。；、）】]*)?"),
    _pattern("url", rf"{_START}{_HOST}/[^\s<>\"'，。；、）】]+"),
    _pattern("ip", rf"{_START}(?<!\.)(?:\d{{1,3}}\.){{3}}\d{{1,3}}(?!\.?\d){_END}", _is_address),
    _pattern("ip", r"(?<![0-9A-Za-z:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![0-9A-Za-z:])", _is_address),
    _pattern("id_number", rf"{_START}[1-9]\d{{5}}(?:18|19|20)\d{{9}}[\dXx]{_END}", _is_resident),
    _pattern("id_number", rf"{_START}(?!000|666|9)\d{{3}}[- ](?!00)\d{{2}}[- ](?!0000)\d{{4}}{_END}"),
    _pattern("card", rf"{_START}\d(?:[ \-]?\d){{12,18}}{_END}", _is_card),
    _pattern("phone", rf"{_START}(?:\+?86{_SEP})?1[3-9]\d{_SEP}\d{{4}}{_SEP}\d{{4}}{_END}"),
    _pattern("phone", rf"(?<![0-9A-Za-z+])\+\d{{1,3}}(?:[ .\-]?\(?\d{{1,4}}\)?){{2,6}}{_END}", _is_phone),
    _pattern("phone", r"(?<![0-9A-Za-z])\(\d{3,4}\)[ .\-]?\d{3,4}[ .\-]?\d{4}(?![0-9A-Za-z])"),
    _pattern("phone", rf"{_START}\d{{3}}[ .\-]\d{{3}}[ .\-]\d{{4}}{_END}"),
    _pattern("phone", rf"{_START}0\d{{2,3}}[ \-]\d{{7,8}}(?:[ \-转]\d{{1,5}})?{_END}"),
    _pattern("phone", rf"{_START}(?:400|800)[ \-]\d{{3,4}}[ \-]\d{{3,4}}{_END}"),
    _pattern("phone", rf"{_START}0\d{{3,4}} \d{{3}} ?\d{{3,4}}{_END}"),
)
