"""Any number of labels for a text, none included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from feilun import datasets
from feilun.errors import DataError
from feilun.models import inference, tokens
from feilun.pipeline.kinds import Model
from feilun.tasks import balance, metrics, metrics_multilabel
from feilun.tasks.metrics import Metric
from feilun.tasks.options import TaskOptions
from feilun.tasks.task import Answered, TokenRows

if TYPE_CHECKING:  # torch is for learning: what answers is imported without it
    from torch import Tensor

    from feilun.models.network import Network

HEAD = "labels"
COLUMNS = ("labels",)
READS = ("text",)


@dataclass(frozen=True)
class Examples(TokenRows):
    """N rows of token ids, the numbers of each row's labels, and what is added to the C logits while training.

    ``weights``: how much each label's loss counts, (C,), 1 on average.
    """

    targets: list[list[int]]
    offset: NDArray[np.float32]
    weights: NDArray[np.float32]
    smoothing: float = 0.0


def labels(frame: pl.DataFrame) -> list[str]:
    """The labels that occur, sorted.

    Raises:
        DataError: none.
    """
    found = datasets.labels(frame.select("labels"))
    if not found:
        raise DataError("no training row has a label", where="column labels", hint="check the column and its separator")
    return found


def examples(frame: pl.DataFrame, network: Network, options: TaskOptions) -> Examples:
    """Texts and labels as numbers; texts are cut at the tokenizer's context.

    ``options.balance``: 0 learns how frequent each label is, 1 answers as if every label were given to half of the rows
    (logit adjustment, Menon et al. 2021, arXiv 2007.07314, for each label by itself).

    Raises:
        DataError: a label that the network does not have.
    """
    column = frame["labels"].to_list()
    numbers = metrics.numbers([label for row in column for label in row], network.labels)
    ends = np.cumsum([len(row) for row in column])
    targets = [part.tolist() for part in np.split(numbers, ends[:-1])] if column else []
    counts = np.bincount(numbers, minlength=len(network.labels))
    share = (counts + 0.5) / (len(column) + 1)
    weights = balance.weights(counts, options.class_weight, each_row=False)
    return Examples(
        tokens.encode(network.tokenizer, frame["text"].to_list()),
        targets,
        (options.balance * np.log(share / (1 - share))).astype(np.float32),
        weights.astype(np.float32),
        options.label_smoothing,
    )


def losses(network: Network, examples: Examples, chosen: Sequence[int]) -> Tensor:
    """Mean binary cross-entropy over the labels of each chosen row, (N,), float32."""
    import torch

    from feilun.tasks import forward

    logits = forward.outputs(network, [examples.rows[i] for i in chosen])
    wanted = np.full(logits.shape, examples.smoothing / 2, np.float32)
    for row, i in enumerate(chosen):
        wanted[row, examples.targets[i]] = 1 - examples.smoothing / 2
    offset, weights = (torch.from_numpy(numbers).to(logits.device) for numbers in (examples.offset, examples.weights))
    found = torch.nn.functional.binary_cross_entropy_with_logits(
        logits + offset, torch.from_numpy(wanted).to(logits.device), reduction="none"
    )
    return (found * weights).mean(1)


def decide(network: Network, held_out: pl.DataFrame, options: TaskOptions) -> dict[str, Any]:
    """The score from which a label is given: ``options.threshold``, or where that is 0 the one with the highest
    micro-F1 on rows that were not learned from.

    Raises:
        DataError: there are no such rows to choose it by.
    """
    from feilun.models.network import Answering

    if options.threshold:
        return {"threshold": options.threshold}
    if held_out.is_empty():
        raise DataError("a threshold is chosen on rows that are not learned from", hint="set held_out, for example 0.1")
    engine = Answering(network)
    scores = engine.run(engine.encode(held_out["text"].to_list()))
    truth = metrics_multilabel.marks(held_out["labels"].to_list(), network.labels)
    return {"threshold": metrics_multilabel.best_threshold(truth, scores)}


def load(model: Model) -> inference.Engine:
    """The engine of the model's format."""
    return inference.load(model)


def answer(engine: inference.Engine, frame: pl.DataFrame) -> Answered:
    """The labels whose score reaches the threshold, best first, and every label's score; ``raw``: scores (N, C)."""
    scores = engine.run(engine.encode(frame["text"].to_list()))
    names, threshold = engine.labels, float(engine.decided.get("threshold", 0.5))
    said = []
    for row in scores:
        best = [int(i) for i in np.argsort(-row, kind="stable") if row[i] >= threshold]
        said.append({"labels": [names[i] for i in best], "scores": dict(zip(names, row.tolist(), strict=True))})
    return Answered(said, scores)


def measure(frame: pl.DataFrame, answered: Answered, labels: Sequence[str]) -> list[Metric]:
    """F1 (micro, macro), precision, recall, exact match and Jaccard of the labels that were given."""
    truth = metrics_multilabel.marks(frame["labels"].to_list(), labels)
    return metrics_multilabel.figures(truth, metrics_multilabel.marks([s["labels"] for s in answered.said], labels))
