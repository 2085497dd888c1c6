"""Which split a row falls into: by its text alone, so that no other row and no order can move it."""

from __future__ import annotations

import polars as pl

from feilun.datasets.positions import position
from feilun.prepare.settings import Split


def split(frame: pl.DataFrame, shares: Split) -> pl.DataFrame:
    """Add the column ``split``: test where the position of the row's key is below the test share, else train."""
    names = ["test" if position(key) < shares.test else "train" for key in frame["key"]]
    return frame.with_columns(split=pl.Series(names, dtype=pl.String))
