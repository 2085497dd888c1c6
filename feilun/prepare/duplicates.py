"""Rows that say the same: exactly after folding, or nearly."""

from __future__ import annotations

import polars as pl

from feilun.prepare import minhash
from feilun.prepare.card import Card


def without_exact(frame: pl.DataFrame, card: Card) -> pl.DataFrame:
    """One row for each text, the one with the smallest id among those with its most frequent label.

    Where two labels are equally frequent no row is kept: nobody could say which of them is right.
    """
    votes = frame.group_by("key", "label").agg(votes=pl.len())
    most = votes.group_by("key").agg(pl.col("votes").max(), labels=pl.len())
    winners = votes.join(most, on=["key", "votes"])
    tied = winners.filter(pl.len().over("key") > 1).select("key").unique()
    card.conflicting_texts = most.filter(pl.col("labels") > 1).height
    frame = card.filtered("tied_labels", frame, frame.join(tied, on="key", how="anti"))
    right = frame.join(winners, on=["key", "label"], how="semi")
    frame = card.filtered("outvoted_labels", frame, right)
    return card.filtered("exact_duplicates", frame, frame.sort("id", "row").unique("key", keep="first"))


def without_near(frame: pl.DataFrame, threshold: float, card: Card) -> pl.DataFrame:
    """Rows of which no two are nearly the same.

    Test rows go first, then by id: a train row that nearly repeats a test row is leakage and is the one that goes.
    """
    frame = frame.sort("split", "id")  # "test" sorts before "train"
    removed = minhash.repeats(frame["key"].to_list(), threshold) if threshold < 1 else []
    splits = frame["split"].to_list()
    leaked = [r for r in removed if splits[r.kept] != splits[r.removed]]
    card.show_near(frame, removed)
    gone = pl.Series([r.removed for r in removed if splits[r.kept] == splits[r.removed]], dtype=pl.UInt32)
    leaking = pl.Series([r.removed for r in leaked], dtype=pl.UInt32)
    frame = frame.with_row_index("place")
    frame = card.filtered("near_duplicates", frame, frame.filter(~pl.col("place").is_in(gone.implode())))
    return card.filtered("leaked_into_train", frame, frame.filter(~pl.col("place").is_in(leaking.implode())))
