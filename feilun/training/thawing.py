"""Gradual unfreezing: the head learns first, then the highest layer with it, and so on down (Howard and Ruder 2018,
arXiv 1801.06146: what a layer knows is not washed out by the gradients of a head that is still random)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from feilun.models.network import Network
from feilun.training.settings import FitSettings


class Thawing:
    """Which of the trained weights move at a step; the others have no gradient, and cost no backward pass."""

    def __init__(
        self, network: Network, parameters: Mapping[str, nn.Parameter], settings: FitSettings, steps: int
    ) -> None:
        self.span = settings.unfreeze * steps
        layers = [set(map(id, layer.parameters())) for layer in reversed(network.layers)]
        below = set(map(id, network.embeddings.parameters()))
        self.groups: list[list[nn.Parameter]] = []  # the highest first; what is in no layer is always warm
        for group in (*layers, below) if self.span else ():
            chosen = [p for p in parameters.values() if id(p) in group]
            if chosen:
                self.groups.append(chosen)

    def reach(self, step: int) -> None:
        """Set what moves at ``step``, counted from 0."""
        for depth, group in enumerate(self.groups, 1):
            warm = step >= self.span * depth / len(self.groups)
            for parameter in group:
                parameter.requires_grad_(warm)
