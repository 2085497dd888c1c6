"""A number for a text: a rating, a price, a share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from feilun.errors import DataError
from feilun.models import inference, tokens
from feilun.pipeline.kinds import Model
from feilun.tasks import metrics_numbers
from feilun.tasks.metrics import Metric
from feilun.tasks.options import TaskOptions
from feilun.tasks.task import Answered, TokenRows

if TYPE_CHECKING:  # torch is for learning: what answers is imported without it
    from torch import Tensor

    from feilun.models.network import Network

HEAD = "number"
COLUMNS = ("score",)
READS = ("text",)


@dataclass(frozen=True)
class Examples(TokenRows):
    """N rows of token ids, and the number that belongs to each, (N,)."""

    targets: NDArray[np.float32]


def labels(frame: pl.DataFrame) -> list[str]:
    """None: a number has no labels."""
    return []


def examples(frame: pl.DataFrame, network: Network, options: TaskOptions) -> Examples:
    """Texts and their numbers.

    A head that has learned nothing yet gets the mean and the spread of the numbers as its scale, so that prices in
    thousands are learned as fast as ratings; one that was trained before keeps its own.

    Raises:
        DataError: a number is not finite, or all are the same.
    """
    return scored(tokens.encode(network.tokenizer, frame["text"].to_list()), frame, network)


def scored(rows: list[list[int]], frame: pl.DataFrame, network: Network) -> Examples:
    """Rows of ids with the numbers of the column ``score`` (see ``examples``)."""
    numbers = frame["score"].to_numpy().astype(np.float64)
    for number, finite in enumerate(np.isfinite(numbers)):
        if not finite:
            raise DataError(
                f"the score {numbers[number]} is no number to learn", where=f"column score, row {number + 1}"
            )
    if len(numbers) and numbers.min() == numbers.max() and _is_new(network):
        raise DataError(
            f"all {len(numbers)} scores are {numbers[0]:g}: there is nothing to learn", where="column score"
        )
    if len(numbers) and _is_new(network):
        network.head.centre.fill_(float(numbers.mean()))
        network.head.spread.fill_(float(numbers.std()))
    return Examples(rows, numbers.astype(np.float32))


def _is_new(network: Network) -> bool:
    return float(network.head.centre) == 0 and float(network.head.spread) == 1


def losses(network: Network, examples: Examples, chosen: Sequence[int]) -> Tensor:
    """Squared error of each chosen row, (N,), float32, in units of the scores' variance."""
    import torch

    from feilun.tasks import forward

    said = forward.outputs(network, [examples.rows[i] for i in chosen])[:, 0]
    wanted = torch.from_numpy(examples.targets[chosen]).to(said.device)
    return ((said - wanted) / network.head.spread).square()


def load(model: Model) -> inference.Engine:
    """The engine of the model's format."""
    return inference.load(model)


def answer(engine: inference.Engine, frame: pl.DataFrame) -> Answered:
    """The number of each text."""
    return said(engine, engine.encode(frame["text"].to_list()))


def said(engine: inference.Engine, rows: tokens.Rows) -> Answered:
    """The number of each row of ids; ``raw`` is all of them, (N,)."""
    numbers = engine.run(rows)[:, :1].reshape(-1)
    return Answered([{"score": float(number)} for number in numbers], numbers)


def measure(frame: pl.DataFrame, answered: Answered, labels: Sequence[str]) -> list[Metric]:
    """Pearson's correlation first, then Spearman's, R2 and errors."""
    return metrics_numbers.figures(frame["score"].to_numpy(), answered.raw)
