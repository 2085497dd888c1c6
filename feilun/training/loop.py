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
from feilun.training import machine, optimizer, packing, schedule
from feilun.training.crew import Crew
from feilun.training.fencing import Fence
from feilun.training.packing import Plan
from feilun.training.settings import FitSettings
from feilun.training.state import State
from feilun.training.watching import Watch


class Examples(Protocol):
    """What can be packed: rows with a length."""

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens in each row."""


E = TypeVar("E", bound=Examples)


@dataclass(frozen=True)
class Progress:
    """After ``step`` of ``steps``: the rows' mean loss, the gradient's length before clipping.

    ``held_out`` is what the watch measured after this step, where it did, and ``best`` the best of that so far, seen
    after ``best_step`` steps: who compares trainings gives up on this one by not asking for the next step. ``watch``
    says what that figure is.
    """

    step: int
    steps: int
    loss: float
    gradient: float
    held_out: float | None = None
    best: float | None = None
    best_step: int = 0
    watch: Watch | None = None


def fit(
    network: Network,
    examples: E,
    losses: Callable[[Network, E, Sequence[int]], Tensor],
    settings: FitSettings,
    scratch: Path,
    *,
    plan: Plan | None = None,
    watch: Watch | None = None,
) -> Iterator[Progress]:
    """Train ``network`` in place, yielding after each step.

    Deterministic under ``settings.seed`` on one machine. A checkpoint in ``scratch`` is resumed, and the weights at the
    end are those of an uninterrupted training to the last bit (RELIABILITY 47). At the end the network has the best
    weights that ``watch`` saw; without a watch, the mean that the settings ask for, or the last ones.

    Args:
        losses: from the network, the examples and the numbers of the chosen rows, each row's loss, (N,).
        plan: other batches than those of ``packing.plan``.
        watch: held-out rows; looked at every ``settings.watch_steps`` steps and at the end.

    Raises:
        StepError: the loss or the gradient is not finite; the step is not taken, the last checkpoint stays (46). Or a
            checkpoint cannot be written, or a step needs more memory than there is (48).
        ConflictError: another trainer is at work in ``scratch``, or has taken over (49).
    """
    torch.manual_seed(settings.seed)
    plan = plan or packing.plan(examples.lengths, settings, whole=getattr(examples, "together", False))
    device = machine.device(settings)
    optimizer.freeze(network, settings)
    crew = Crew(network, settings, device, whole=plan.whole)
    fence = Fence(scratch) if crew.rank == 0 else None
    compute = crew.wrap(examples, losses)
    parameters = optimizer.trained(crew.network)
    steps = math.ceil(len(plan.batches) / settings.accumulation)
    rows = plan.rows * len(plan.batches) / max(1, steps) / crew.size  # in a step, on average, for each process
    look_every = settings.watch_steps or max(1, round(plan.epoch / settings.accumulation))
    state = State(crew, parameters, settings, steps, watch)
    try:
        for step in range(state.resume(scratch), steps):
            if state.watcher.stops:
                break
            state.thawing.reach(step)
            batches = plan.batches[step * settings.accumulation : (step + 1) * settings.accumulation]
            with machine.enough_memory(f"step {step + 1} of {steps}"):
                # rows, not batches, weigh the same: short texts come many to a batch
                total = _backward(compute, crew, batches, rows)
            length, mean = state.optimizer.shorten(), total / sum(map(len, batches))
            if not (math.isfinite(mean) and math.isfinite(length)):
                raise _not_finite(step, steps, mean, length)
            state.optimizer.step(schedule.share(step, steps, settings))
            state.average.update(step)
            looks = (step + 1) % look_every == 0 or step + 1 == steps
            held_out = state.look(step + 1) if looks else None
            if (step + 1) % settings.checkpoint_steps == 0:
                state.save(scratch, step + 1, fence)
            yield Progress(step + 1, steps, mean, length, held_out, state.watcher.best, state.watcher.best_step, watch)
        state.finish()
    finally:
        state.optimizer.close()
        if fence is not None:
            fence.close()


def _backward(
    compute: Callable[[Sequence[int]], Tensor], crew: Crew, batches: Sequence[Sequence[int]], rows: float
) -> float:
    """Add up this process's gradients of a step; the sum of all rows' losses, of every process."""
    parts = crew.parts(batches)
    total = torch.zeros((), device=crew.device)
    for i, (part, counts) in enumerate(parts, 1):
        with crew.adding(last=i == len(parts)):
            with machine.autocast(crew.settings, crew.device):
                loss = compute(part).sum() * counts
            torch.autograd.backward(loss / rows)
        total += loss.detach()
    return crew.total(total)


def _not_finite(step: int, steps: int, loss: float, gradient: float) -> StepError:
    return StepError(
        f"training stopped: loss {loss}, gradient {gradient}",
        where=f"step {step + 1} of {steps}",
        hint="try a lower learning_rate; the weights before this step were kept",
        code="not-finite",
    )
