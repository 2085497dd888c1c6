"""On which side of a split a text falls: by the text alone, so that no other row, order or later turn can move it."""

from __future__ import annotations

import hashlib
import re
import unicodedata

import polars as pl

_SPACE = re.compile(r"\s+")


def key(text: str) -> str:
    """What two texts share when they are the same for us: compatible forms and case are folded, punctuation is kept.

    >>> key("Ｇreat  FILM :)") == key("great film :)")
    True
    """
    return _SPACE.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def together(frame: pl.DataFrame) -> list[str]:
    """What each row shares with those that must stand on its side of a split, (N,).

    Of conversations what the user said first, for a longer one repeats a shorter one word by word; of questions about a
    text that text; else the text itself.
    """
    if "messages" in frame.columns:
        firsts = [
            next((m["content"] for m in spoken if m["role"] == "user"), asked)
            for spoken, asked in zip(frame["messages"].to_list(), frame["text"], strict=True)
        ]
        return [key(first) for first in firsts]
    return [key(text) for text in frame["other" if "answers" in frame.columns else "text"]]


def position(key: str) -> float:
    """A number in [0, 1) from a text's key, the same on every machine; a larger test share only ever adds rows to test.

    >>> 0 <= position("a film") < 1
    True
    """
    digest = hashlib.sha256(b"split\0" + key.encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
