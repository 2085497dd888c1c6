"""The loop, as a generator: it yields after every step, and whoever iterates decides what to show and when to stop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from feilun.errors import StepError
from feilun.models.network import Network
from feilun.training import checkpoint, optimizer, packing
from feilun.training.settings import FitSettings


class Examples(Protocol):
    """What can be packed: rows with a length."""

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens in each row."""


E = TypeVar("E", bound=Examples)


@dataclass(frozen=True)
class Progress:
    """After ``step`` of ``steps``: the batch's mean loss, the gradient's length before clipping, tokens so far."""

    step: int
    steps: int
    loss: float
    gradient: float


def fit(
    network: Network,
    examples: E,
    losses: Callable[[Network, E, Sequence[int]], Tensor],
    settings: FitSettings,
    scratch: Path,
) -> Iterator[Progress]:
    """Train ``network`` in place, yielding after each step.

    Deterministic under ``settings.seed`` on one machine. A checkpoint in ``scratch`` is resumed, and the weights at the
    end are those of an uninterrupted training to the last bit (RELIABILITY 47).

    Args:
        losses: from the network, the examples and the numbers of the chosen rows, each row's loss, (N,).

    Raises:
        StepError: the loss or the gradient is not finite; the step is not taken, the last checkpoint stays (46).
    """
    torch.manual_seed(settings.seed)
    parameters = optimizer.trained(network, settings)
    adam = optimizer.build(parameters, settings)
    plan = [
        batch
        for epoch in range(settings.epochs)
        for batch in packing.batches(examples.lengths, settings.batch_tokens, settings.seed, epoch)
    ]
    rows = len(examples.lengths) * settings.epochs / len(plan)  # in a batch, on average
    start = (checkpoint.load(scratch, parameters, adam) or {"step": 0})["step"]
    for step in range(start, len(plan)):
        with torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16()):
            loss = losses(network, examples, plan[step]).sum()
        torch.autograd.backward(loss / rows)  # rows, not batches, weigh the same: short texts come many to a batch
        length = torch.nn.utils.clip_grad_norm_(parameters.values(), settings.clip).item()
        mean = loss.item() / len(plan[step])
        if not (math.isfinite(mean) and math.isfinite(length)):
            raise _not_finite(step, len(plan), mean, length)
        optimizer.set_rate(adam, optimizer.schedule(step, len(plan), settings.warmup))
        adam.step()
        adam.zero_grad()
        if (step + 1) % settings.checkpoint_steps == 0:
            checkpoint.save(scratch, parameters, adam, {"step": step + 1})
        yield Progress(step + 1, len(plan), mean, length)


def has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 in hardware; without that it would be slower than float32."""
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def _not_finite(step: int, steps: int, loss: float, gradient: float) -> StepError:
    return StepError(
        f"training stopped: loss {loss}, gradient {gradient}",
        where=f"step {step + 1} of {steps}",
        hint="try a lower learning_rate; the weights before this step were kept",
        code="not-finite",
    )
