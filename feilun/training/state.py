"""All that changes while a training runs, so that it can be put down and taken up again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from feilun.models.network import Network
from feilun.training import checkpoint
from feilun.training.averaging import Average
from feilun.training.optimizer import Optimizer
from feilun.training.settings import FitSettings
from feilun.training.thawing import Thawing
from feilun.training.watching import Watch, Watcher


class State:
    """The optimiser, what thaws, the mean of the weights and the best of them."""

    def __init__(
        self,
        network: Network,
        parameters: Mapping[str, nn.Parameter],
        settings: FitSettings,
        steps: int,
        watch: Watch | None,
    ) -> None:
        self.device = next(network.parameters()).device
        self.optimizer = Optimizer(parameters, settings)
        self.thawing = Thawing(network, parameters, settings, steps)
        self.average = Average(parameters, settings, steps)
        self.watcher = Watcher(watch, parameters, settings)

    def look(self, step: int) -> float | None:
        """Measure the model that there would be if the training ended after ``step`` steps."""
        with self.average.in_place():
            return self.watcher.look(step)

    def finish(self) -> None:
        """Give the network the weights that it keeps."""
        if not self.watcher.put_best():
            self.average.put()

    def save(self, scratch: Path, step: int) -> None:
        """Write the checkpoint after ``step`` steps."""
        tensors = self.optimizer.tensors() | {"random": torch.get_rng_state()}
        tensors |= _named("average", self.average.weights) | _named("best", self.watcher.weights)
        checkpoint.save(scratch, tensors, {"step": step} | self.watcher.position())

    def resume(self, scratch: Path) -> int:
        """Go on from the checkpoint; how many steps were done, 0 where there is none."""
        found = checkpoint.load(scratch)
        if found is None:
            return 0
        tensors, position = found
        torch.set_rng_state(tensors["random"])
        self.optimizer.resume(tensors)
        self.average.weights = _under("average", tensors, self.device)
        self.watcher.weights = _under("best", tensors, self.device)
        self.watcher.resume(position)
        return int(position["step"])


def _named(what: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{what}/{name}": tensor for name, tensor in weights.items()}


def _under(what: str, tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    start = what + "/"
    return {name.removeprefix(start): t.to(device) for name, t in tensors.items() if name.startswith(start)}
