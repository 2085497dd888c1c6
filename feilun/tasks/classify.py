"""One label for a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from feilun import datasets
from feilun.errors import DataError
from feilun.models import inference, tokens
from feilun.pipeline.kinds import Model
from feilun.tasks import balance, metrics, metrics_labels
from feilun.tasks.metrics import Metric
from feilun.tasks.options import TaskOptions
from feilun.tasks.task import Answered, TokenRows

if TYPE_CHECKING:  # torch is for learning: what answers is imported without it
    from torch import Tensor

    from feilun.models.network import Network

HEAD = "label"
COLUMNS = ("label",)
READS = ("text",)


@dataclass(frozen=True)
class Examples(TokenRows):
    """N rows of token ids, the number of each row's label, and what is added to the C logits while training.

    ``weights``: how much a row of each label counts, (C,), 1 for the average row.
    """

    targets: NDArray[np.int64]
    offset: NDArray[np.float32]
    weights: NDArray[np.float32]
    smoothing: float = 0.0


def labels(frame: pl.DataFrame) -> list[str]:
    """The labels that occur, sorted.

    Raises:
        DataError: fewer than two.
    """
    found = datasets.labels(frame)
    if len(found) < 2:
        raise DataError(
            f"to classify takes at least two labels; the training rows have {len(found)}: {', '.join(found) or 'none'}",
            where="column label",
            hint="check the label column and the thresholds of prepare",
        )
    return found


def examples(frame: pl.DataFrame, network: Network, options: TaskOptions) -> Examples:
    """Texts and labels as numbers; texts are cut at the tokenizer's context.

    ``options.balance``: 0 learns how frequent the labels are, and answers by it; 1 learns to answer as if all were
    equally frequent, which is best for macro-F1 (logit adjustment, Menon et al. 2021, arXiv 2007.07314).

    Raises:
        DataError: a label that the network does not have.
    """
    return labelled(tokens.encode(network.tokenizer, frame["text"].to_list()), frame, network, options)


def labelled(rows: list[list[int]], frame: pl.DataFrame, network: Network, options: TaskOptions) -> Examples:
    """Rows of ids with the labels of the column ``label`` (see ``examples``)."""
    targets = metrics.numbers(frame["label"].to_list(), network.labels)
    counts = np.bincount(targets, minlength=len(network.labels))
    share = (counts + 1) / (len(targets) + len(network.labels))
    offset = (options.balance * np.log(share)).astype(np.float32)
    weights = balance.weights(counts, options.class_weight, each_row=True).astype(np.float32)
    return Examples(rows, targets, offset, weights, options.label_smoothing)


def losses(network: Network, examples: Examples, chosen: Sequence[int]) -> Tensor:
    """Cross-entropy of each chosen row, (N,), float32, times the weight of its label."""
    import torch

    from feilun.tasks import forward

    logits = forward.outputs(network, [examples.rows[i] for i in chosen])
    numbers = (examples.offset, examples.weights, examples.targets[chosen])
    offset, weights, targets = (torch.from_numpy(one).to(logits.device) for one in numbers)
    found = torch.nn.functional.cross_entropy(
        logits + offset, targets, reduction="none", label_smoothing=examples.smoothing
    )
    return found * weights[targets]


def load(model: Model) -> inference.Engine:
    """The engine of the model's format."""
    return inference.load(model)


def answer(engine: inference.Engine, frame: pl.DataFrame) -> Answered:
    """The best label of each text with its score, and every label's."""
    return said(engine, engine.encode(frame["text"].to_list()))


def said(engine: inference.Engine, rows: tokens.Rows) -> Answered:
    """What is answered to rows of ids; ``raw`` is every label's score, (N, C)."""
    scores = engine.run(rows)
    answers = [
        {
            "label": engine.labels[int(row.argmax())],
            "score": float(row.max()),
            "scores": dict(zip(engine.labels, row.tolist(), strict=True)),
        }
        for row in scores
    ]
    return Answered(answers, scores)


def measure(frame: pl.DataFrame, answered: Answered, labels: Sequence[str]) -> list[Metric]:
    """Macro-F1 first, accuracy, areas under curves, how far scores are from being right: see ``metrics_labels``."""
    truth = metrics.numbers(frame["label"].to_list(), labels)
    return metrics_labels.of(truth, answered.raw, len(labels))
