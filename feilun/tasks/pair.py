"""A label for a pair of texts: whether one follows from the other, whether both ask the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from feilun.models import inference, tokens
from feilun.tasks import classify
from feilun.tasks.options import TaskOptions
from feilun.tasks.task import Answered

if TYPE_CHECKING:  # torch is for learning: what answers is imported without it
    from feilun.models.network import Network

HEAD = "label"
COLUMNS = ("other", "label")
READS = ("text", "other")

labels = classify.labels
losses = classify.losses
load = classify.load
measure = classify.measure


def examples(frame: pl.DataFrame, network: Network, options: TaskOptions) -> classify.Examples:
    """Pairs, read together by one encoder, and their labels (see ``classify.examples``).

    Raises:
        DataError: a label that the network does not have.
        ArtifactError: the base's tokenizer knows no separator.
    """
    rows = tokens.encode_pairs(network.tokenizer, frame["text"].to_list(), frame["other"].to_list())
    return classify.labelled(rows, frame, network, options)


def answer(engine: inference.Engine, frame: pl.DataFrame) -> Answered:
    """The best label of each pair with its score, and every label's."""
    return classify.said(
        engine, tokens.encode_pairs(engine.tokenizer, frame["text"].to_list(), frame["other"].to_list())
    )
