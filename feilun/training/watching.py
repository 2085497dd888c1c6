"""A look at held-out rows now and then: to keep the best weights, to stop early, and to let a caller give up."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from feilun.training import machine, packing
from feilun.training.settings import FitSettings


@dataclass(frozen=True)
class Watch:
    """A figure of the network as it is at that moment, on rows that it does not learn from."""

    measure: Callable[[], float]
    higher_is_better: bool = False
    name: str = "loss"


class Watcher:
    """What was seen so far. Without a watch it sees nothing and never stops a training."""

    def __init__(self, watch: Watch | None, parameters: Mapping[str, nn.Parameter], settings: FitSettings) -> None:
        self.watch = watch
        self.parameters = parameters
        self.patience = settings.patience
        self.best: float | None = None
        self.best_step = 0
        self.since = 0  # looks since the best one
        self.weights: dict[str, Tensor] = {}

    def look(self, step: int) -> float | None:
        """Measure after ``step`` steps, and keep the weights where they are the best so far."""
        if self.watch is None:
            return None
        found = self.watch.measure()
        better = math.isfinite(found) and (
            self.best is None or (found > self.best if self.watch.higher_is_better else found < self.best)
        )
        if better:
            self.best, self.best_step, self.since = found, step, 0
            self.weights = {name: p.detach().clone() for name, p in self.parameters.items()}
        else:
            self.since += 1
        return found

    @property
    def stops(self) -> bool:
        """Whether patience is at its end."""
        return 0 < self.patience <= self.since

    @torch.no_grad()
    def put_best(self) -> bool:
        """Give the network the best weights; False where nothing was seen."""
        for name, best in self.weights.items():
            self.parameters[name].copy_(best)
        return bool(self.weights)

    def position(self) -> dict[str, Any]:
        """For the checkpoint, beside ``weights``."""
        return {"best": self.best, "best_step": self.best_step, "since": self.since}

    def resume(self, position: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.best, self.best_step, self.since = position["best"], position["best_step"], position["since"]


def mean_loss(network: Any, examples: Any, losses: Callable[..., Tensor], settings: FitSettings) -> float:
    """The mean loss of all rows, in the batches and the precision of the training; no gradients."""
    where = machine.device(settings)
    total = 0.0
    batches = packing.batches(examples.lengths, settings.batch_tokens, settings.seed, 0, rows=settings.batch_rows)
    with torch.no_grad(), machine.autocast(settings, where):
        for batch in batches:
            total += losses(network, examples, batch).sum().item()
    return total / len(examples.lengths)
