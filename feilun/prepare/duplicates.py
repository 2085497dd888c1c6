"""Rows that say the same: exactly after folding, or nearly."""

from __future__ import annotations

import polars as pl

from feilun.prepare import minhash
from feilun.prepare.card import Card


def without_exact(frame: pl.DataFrame, card: Card) -> pl.DataFrame:
    """One row for each text (pair, conversation), with the smallest id among those of its most frequent truth.

    Where two truths are equally frequent no row is kept: nobody could say which of them is right. Of scores the mean is
    kept. Where a source says itself what is held out, a train row that repeats a held-out one goes first.
    """
    held_out = frame.filter(split="test").select("same").unique()
    leaked = frame.filter(split="train").join(held_out, on="same", how="semi")
    frame = card.filtered("leaked_into_train", frame, frame.join(leaked, on=["same", "split"], how="anti"))
    votes = frame.group_by("same", "truth").agg(votes=pl.len())
    most = votes.group_by("same").agg(pl.col("votes").max(), truths=pl.len())
    winners = votes.join(most, on=["same", "votes"])
    tied = winners.filter(pl.len().over("same") > 1).select("same").unique()
    card.conflicting_texts = most.filter(pl.col("truths") > 1).height
    frame = card.filtered("tied_labels", frame, frame.join(tied, on="same", how="anti"))
    right = frame.join(winners, on=["same", "truth"], how="semi")
    frame = card.filtered("outvoted_labels", frame, right)
    if "score" in frame.columns:
        frame = frame.with_columns(score=pl.col("score").sort().mean().over("same"))  # sorted: the order must not show
    ordered = frame.sort("id", "text", "contributor", "row")
    return card.filtered("exact_duplicates", frame, ordered.unique("same", keep="first", maintain_order=True))


def without_near(frame: pl.DataFrame, threshold: float, card: Card, *, declared: bool = False) -> pl.DataFrame:
    """Rows of which no two are nearly the same.

    Test rows go first, then by id: a train row that nearly repeats a test row is leakage and is the one that goes. Of
    questions about a text only that is asked, of the texts: those that stand in test are not learned from.

    Args:
        declared: the source says itself what is held out: that is kept whole.
    """
    frame = frame.sort("split", "id")  # "test" sorts before "train"
    about = "answers" in frame.columns
    units = frame.with_columns(unit="key" if about else "same")
    if about:
        units = units.unique("key", keep="first", maintain_order=True).with_columns(text="other")
    removed = minhash.repeats(units["unit"].str.replace_all("\0", " ").to_list(), threshold) if threshold < 1 else []
    card.show_near(units, removed)
    splits, names = units["split"].to_list(), units["unit"].to_list()
    leaking = [names[r.removed] for r in removed if splits[r.kept] != splits[r.removed]]
    gone = [
        names[r.removed]
        for r in removed
        if splits[r.kept] == splits[r.removed] and not about and not (declared and splits[r.removed] == "test")
    ]
    unit = "key" if about else "same"
    for why, lost in (("near_duplicates", gone), ("leaked_into_train", leaking)):
        frame = card.filtered(why, frame, frame.filter(~pl.col(unit).is_in(lost)))
    return frame
