"""The mean of the weights over steps: a model that the last few batches do not push about.

Exponential (Polyak and Juditsky 1992), or even over the last share of the steps (Izmailov et al. 2018, arXiv
1803.05407).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from feilun.training.settings import FitSettings


class Average:
    """A second set of the trained weights; empty where the settings ask for none, or until the first weights count."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], settings: FitSettings, steps: int) -> None:
        self.parameters = parameters
        self.memory = settings.ema
        self.first = 0 if settings.ema else steps - round(settings.average_last * steps)
        self.on = bool(settings.ema or settings.average_last)
        self.weights: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after ``step``, counted from 0."""
        if not self.on or step < self.first:
            return
        if not self.weights:
            self.weights = {name: p.detach().clone() for name, p in self.parameters.items()}
            return
        seen = step - self.first
        # an exponential mean would remember the random start for long: it begins as an even one
        new = max(1 - self.memory, 9 / (10 + seen)) if self.memory else 1 / (seen + 1)
        for name, mean in self.weights.items():
            mean.lerp_(self.parameters[name].detach(), new)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The network has the mean for as long as this lasts."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def put(self) -> None:
        """Give the network the mean for good."""
        for name, mean in self.weights.items():
            self.parameters[name].copy_(mean)

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, mean in self.weights.items():
            own = self.parameters[name]
            kept = own.detach().clone()
            own.copy_(mean)
            mean.copy_(kept)
