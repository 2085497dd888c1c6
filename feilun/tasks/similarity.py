"""A number for a pair of texts: how alike they are, how well one answers the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from feilun.models import inference, tokens
from feilun.tasks import regress
from feilun.tasks.options import TaskOptions
from feilun.tasks.task import Answered

if TYPE_CHECKING:  # torch is for learning: what answers is imported without it
    from feilun.models.network import Network

HEAD = "number"
COLUMNS = ("other", "score")
READS = ("text", "other")

labels = regress.labels
losses = regress.losses
load = regress.load
measure = regress.measure


def examples(frame: pl.DataFrame, network: Network, options: TaskOptions) -> regress.Examples:
    """Pairs, read together by one encoder, and their numbers (see ``regress.examples``)."""
    rows = tokens.encode_pairs(network.tokenizer, frame["text"].to_list(), frame["other"].to_list())
    return regress.scored(rows, frame, network)


def answer(engine: inference.Engine, frame: pl.DataFrame) -> Answered:
    """The number of each pair."""
    return regress.said(
        engine, tokens.encode_pairs(engine.tokenizer, frame["text"].to_list(), frame["other"].to_list())
    )
