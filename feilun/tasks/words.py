"""Which pieces of a text are one word, so that a name never ends within one.

A word is a run of letters, digits and marks. In scripts that write no spaces between words, and in Korean, which writes
endings onto names, each piece stands for itself.
"""

from __future__ import annotations

import functools
import itertools
import unicodedata

from feilun.tasks.windows import Pieces

JOINERS = "\u200c\u200d\u00ad"  # within a word, though neither letters nor marks
WITHOUT_SPACES = (
    *("CJK", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA", "HALFWIDTH KATAKANA", "BOPOMOFO", "HANGUL", "YI", "THAI", "LAO"),
    *("KHMER", "MYANMAR", "TIBETAN"),
)


def firsts(text: str, pieces: Pieces, there: list[int]) -> list[int]:
    """Places in ``there`` (numbers of pieces that are not empty, in order) at which a word begins."""
    found = [0] if there else []
    for place, (before, after) in enumerate(itertools.pairwise(there), 1):
        if not joined(text, pieces.ends[before], pieces.starts[after]):
            found.append(place)
    return found


def joined(text: str, end: int, start: int) -> bool:
    """Whether a piece that starts at ``start`` goes on in the word of the one that ends at ``end``.

    >>> joined("Priya", 3, 3), joined("Priya!", 5, 5), joined("北京", 1, 1)
    (True, False, False)
    """
    if start < end:
        return True  # two pieces of one character
    between = all(sign in JOINERS or unicodedata.category(sign).startswith("M") for sign in text[end:start])
    return between and _in_word(text[end - 1]) and _in_word(text[start])


def whole(text: str, start: int, end: int) -> tuple[int, int]:
    """The span from ``start`` to ``end`` with the whole of the words that it touches, and without pictures at its ends.

    >>> whole("to Priya 🎉 now", 3, 6), whole("to Priya 🎉 now", 3, 10), whole("🎉", 0, 1)
    ((3, 8), (3, 8), (0, 1))
    """
    while start > 0 and joined(text, start, start):
        start -= 1
    while end < len(text) and joined(text, end, end):
        end += 1
    return without_pictures(text, start, end)


def without_pictures(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without emoji and white space at its ends; one that has no letter or digit is left as it is."""
    if not any(sign.isalnum() for sign in text[start:end]):
        return start, end
    first, last = start, end
    while _is_picture(text[first]):
        first += 1
    while _is_picture(text[last - 1]):
        last -= 1
    return first if _pictured(text[start:first]) else start, last if _pictured(text[last:end]) else end


def _pictured(text: str) -> bool:
    return any(unicodedata.category(sign) == "So" for sign in text)


@functools.lru_cache(65536)
def _in_word(sign: str) -> bool:
    if sign in JOINERS or unicodedata.category(sign).startswith("M"):
        return True
    return sign.isalnum() and not unicodedata.name(sign, "").startswith(WITHOUT_SPACES)


def _is_picture(sign: str) -> bool:
    return sign.isspace() or sign in "\u200d\ufe0e\ufe0f" or unicodedata.category(sign) in ("So", "Sk")
