"""Which split a row falls into: by its text alone, so that no other row and no order can move it."""

from __future__ import annotations

import hashlib

import polars as pl

from feilun.prepare.settings import Split


def position(key: str) -> float:
    """A number in [0, 1) from a text's key, the same on every machine; a larger test share only ever adds rows to test.

    >>> 0 <= position("a film") < 1
    True
    """
    digest = hashlib.sha256(b"split\0" + key.encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def split(frame: pl.DataFrame, shares: Split) -> pl.DataFrame:
    """Add the column ``split``: test where the text's position is below the test share, else train."""
    names = ["test" if position(key) < shares.test else "train" for key in frame["key"]]
    return frame.with_columns(split=pl.Series(names, dtype=pl.String))
