"""Answers that people prefer: learned from a better and a worse one to the same conversation.

``preference = "dpo"``: direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290), which holds on to what
the model was before; "orpo": odds ratios (Hong et al. 2024, arXiv 2403.07691), which learns to write the better answer
at the same time and needs no earlier model. What the model was before is asked once, before the first step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from torch import Tensor

from feilun.models import causal
from feilun.models.causal import Causal
from feilun.models.decoding import Writing
from feilun.pipeline.kinds import Model
from feilun.tasks import generate, metrics
from feilun.tasks.metrics import Metric
from feilun.tasks.options import TaskOptions
from feilun.tasks.task import Answered

HEAD = causal.HEAD
COLUMNS = ("messages", "chosen", "rejected")
READS = ("messages",)


@dataclass(frozen=True)
class Examples:
    """N pairs: row 2 i is the better answer of pair i, row 2 i + 1 the worse one, each after the conversation.

    ``before``: the log-probability of each answer to the model as it was, (2 N,), float32; nothing of it for ORPO.
    """

    rows: list[list[int]]
    counts: list[list[bool]]
    before: Tensor
    beta: float
    orpo: bool

    def __len__(self) -> int:
        return len(self.rows) // 2

    @property
    def lengths(self) -> list[int]:
        """Tokens of both answers of each pair."""
        return [len(self.rows[i]) + len(self.rows[i + 1]) for i in range(0, len(self.rows), 2)]


def labels(frame: pl.DataFrame) -> list[str]:
    """None."""
    return []


def examples(frame: pl.DataFrame, network: Causal, options: TaskOptions) -> Examples:
    """Pairs as numbers, and what the model thinks of them before it learns.

    Raises:
        DataError: an answer with its conversation is longer than the context (unless ``too_long`` skips such pairs).
        StepError: training would see other ids than serving.
    """
    generate.settle(network, options)
    better, worse = (_taught(network, frame, column) for column in ("chosen", "rejected"))
    longer = [max(pair, key=lambda one: len(one[0])) for pair in zip(better, worse, strict=True)]
    kept = generate.fitting(longer, network.context, frame["id"].to_list(), options)
    both = [one for i in kept for one in (better[i], worse[i])]
    rows, counts = [row for row, _ in both], [which for _, which in both]
    orpo = options.preference == "orpo"
    before = torch.zeros(len(rows)) if orpo else _asked(network, rows, counts)
    return Examples(rows, counts, before, options.beta, orpo)


def losses(network: Causal, examples: Examples, chosen: Sequence[int]) -> Tensor:
    """Each chosen pair's loss, (N,), float32."""
    sides = [row for pair in chosen for row in (2 * pair, 2 * pair + 1)]
    rows, counts = [examples.rows[i] for i in sides], [examples.counts[i] for i in sides]
    now = _log_probabilities(network, rows, counts)
    if examples.orpo:
        return _odds(now, torch.tensor([sum(c) for c in counts], device=now.device), examples.beta)
    gained = (now - examples.before[sides].to(now.device)).view(-1, 2)
    return -torch.nn.functional.logsigmoid(examples.beta * (gained[:, 0] - gained[:, 1]))


def load(model: Model) -> Writing:
    """What writes answers."""
    return generate.load(model)


def answer(engine: Writing, frame: pl.DataFrame) -> Answered:
    """The next message of each conversation."""
    return generate.answer(engine, frame)


def measure(frame: pl.DataFrame, answered: Answered, labels: Sequence[str]) -> list[Metric]:
    """How often the better answer is the more probable one, by its tokens' mean and by their sum, and by how much.

    A pair of which the model cannot read one conversation whole is left out of all three, and counted.
    """
    network = answered.raw.network
    better, worse = (generate.surprises(network, _conversations(frame, column)) for column in ("chosen", "rejected"))
    total, tokens = np.array([better[0], worse[0]]), np.array([better[1], worse[1]])
    mean = total / np.maximum(tokens, 1)
    whole = tokens.min(0) > 0
    return [
        metrics.mean("preferred", mean[0] < mean[1], of=whole),
        metrics.mean("preferred_whole", total[0] < total[1], of=whole),
        metrics.mean("margin", mean[1] - mean[0], of=whole),
        generate.left_out(whole.tolist()),
    ]


def _conversations(frame: pl.DataFrame, column: str) -> list[list[Mapping[str, str]]]:
    return [
        [*generate.before(generate.conversation(messages)), {"role": "assistant", "content": said}]
        for messages, said in zip(frame["messages"].to_list(), frame[column].to_list(), strict=True)
    ]


def _taught(network: Causal, frame: pl.DataFrame, column: str) -> list[tuple[list[int], list[bool]]]:
    return generate.teach(network, _conversations(frame, column), last=True)


def _log_probabilities(network: Causal, rows: Sequence[list[int]], counts: Sequence[list[bool]]) -> Tensor:
    """Of each row's answer, (N,)."""
    surprise, numbers = network.surprise(rows, counts)
    return surprise.new_zeros(len(rows)).index_add(0, numbers, -surprise)


def _odds(now: Tensor, tokens: Tensor, weight: float) -> Tensor:
    """ORPO: the surprise of the better answer's tokens, and ``weight`` times how much likelier it is than the worse."""
    mean = (now / tokens).view(-1, 2)
    odds = mean - torch.log1p(-torch.exp(mean).clamp(max=1 - 1e-6))
    return -mean[:, 0] - weight * torch.nn.functional.logsigmoid(odds[:, 0] - odds[:, 1])


@torch.no_grad()
def _asked(network: Causal, rows: list[list[int]], counts: list[list[bool]]) -> Tensor:
    """What the model thinks now, in the precision that the caller's autocast asks for: the training's."""
    found = torch.zeros(len(rows))
    for chosen in generate.batches([len(row) for row in rows]):
        told = _log_probabilities(network, [rows[i] for i in chosen], [counts[i] for i in chosen])
        found[chosen] = told.float().cpu()
    return found
