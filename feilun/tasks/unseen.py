"""Labels that a model cannot give: it was not told of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import polars as pl


@dataclass(frozen=True)
class Unseen:
    """The first row with a label that is not known, by its id, and how many rows have one."""

    label: str
    column: str
    row: str
    rows: int


def find(frame: pl.DataFrame, columns: Sequence[str], known: Collection[str]) -> Unseen | None:
    """What a task's columns hold that is not among the labels that its model knows.

    Args:
        known: the network's labels; of spans its tags (``B-``, ``I-``, ``O``).
    """
    for column in columns:
        if column not in ("label", "labels", "spans"):
            continue
        names = {tag[2:] for tag in known if tag[1:2] == "-"} if column == "spans" else set(known)
        told = frame.select("id", said=column)
        if column != "label":
            told = told.explode("said").drop_nulls("said")
        if column == "spans":
            told = told.with_columns(said=pl.col("said").struct.field("label"))
        strange = told.filter(~pl.col("said").is_in(sorted(names)))
        if strange.height:
            return Unseen(strange["said"][0], column, str(strange["id"][0]), strange["id"].n_unique())
    return None
