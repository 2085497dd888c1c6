"""Which font shows a character on paper, and what stands there for one that no font has.

Only fonts that come with every PDF reader or with reportlab are used, so that the same invoice is the same file on
every machine: Helvetica for western Europe, Vera (embedded) for some more of Latin and mathematics, STSong-Light for
Chinese, Japanese kana, Greek and Cyrillic, HYSMyeongJo for Korean. Nothing shapes or reorders letters here: Arabic,
Hebrew, Indic scripts and emoji have no font and show as ``MISSING``; the HTML form has them.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from xml.sax.saxutils import escape

MISSING = "□"
CHINESE = "STSong-Light"
KOREAN = "HYSMyeongJo-Medium"
LATIN = "Vera"
WIDE = (CHINESE, KOREAN)
_CODECS = (("gbk", CHINESE), ("cp949", KOREAN))  # the repertoires of the fonts' character collections
_DROPPED = ("Cf", "Mn", "Me")  # directions, joiners, marks without a letter of their own: nothing is seen of them alone


def register() -> None:
    """Make the fonts known to reportlab; a second time does nothing."""
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.cidfonts import UnicodeCIDFont
    from reportlab.pdfbase.ttfonts import TTFont

    known = set(pdfmetrics.getRegisteredFontNames())
    for face in WIDE:
        if face not in known:
            pdfmetrics.registerFont(UnicodeCIDFont(face))
    if LATIN not in known:
        pdfmetrics.registerFont(TTFont(LATIN, "Vera.ttf"))


def markup(text: str) -> str:
    """The text as reportlab's paragraphs read it: escaped, and each run in a font that has it.

    >>> markup("a < b 元")
    'a &lt; b <font name="STSong-Light">元</font>'
    """
    return "".join(f'<font name="{font}">{escape(run)}</font>' if font else escape(run) for run, font in runs(text))


def runs(text: str) -> list[tuple[str, str]]:
    """The text as it will be seen, in pieces of one font each; an empty name is the paragraph's own."""
    found: list[tuple[str, str]] = []
    for char in unicodedata.normalize("NFC", text):
        shown, font = _seen(char)
        if found and shown and (found[-1][1] == font or shown == " "):
            found[-1] = (found[-1][0] + shown, found[-1][1])
        elif shown:
            found.append((shown, font))
    return found


def lacks(text: str) -> bool:
    """Whether something of the text shows as ``MISSING``."""
    return any(_seen(char)[0] == MISSING != char for char in unicodedata.normalize("NFC", text))


def is_wide(text: str) -> bool:
    """Whether it has letters that lines may be broken between."""
    return any(font in WIDE for _, font in runs(text))


@lru_cache(maxsize=8192)
def _seen(char: str) -> tuple[str, str]:
    """What is shown for a character, and in which font."""
    if char.isspace():
        return " ", ""
    category = unicodedata.category(char)
    if category in _DROPPED:
        return "", ""
    if category[0] == "C":
        return MISSING, CHINESE
    font = _font(char)
    if font is not None:
        return char, font
    base = unicodedata.normalize("NFKD", char)[0]  # ř without its mark, where no font has it with
    font = _font(base)
    return (MISSING, CHINESE) if font is None else (base, font)


def _font(char: str) -> str | None:
    if _has("cp1252", char):
        return ""
    if ord(char) in _vera():
        return LATIN
    return next((font for codec, font in _CODECS if _has(codec, char)), None)


def _has(codec: str, char: str) -> bool:
    try:
        char.encode(codec)
    except UnicodeEncodeError:
        return False
    return True


@lru_cache(maxsize=1)
def _vera() -> frozenset[int]:
    from reportlab.pdfbase.ttfonts import TTFontFace

    return frozenset(TTFontFace("Vera.ttf").charToGlyph)
