"""All that changes while a training runs, so that it can be put down and taken up again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from feilun.training import checkpoint
from feilun.training.averaging import Average
from feilun.training.crew import Crew, like, whole
from feilun.training.fencing import Fence
from feilun.training.optimizer import Optimizer
from feilun.training.settings import FitSettings
from feilun.training.thawing import Thawing
from feilun.training.watching import Watch, Watcher


class State:
    """The optimiser, what thaws, the mean of the weights and the best of them."""

    def __init__(
        self, crew: Crew, parameters: Mapping[str, nn.Parameter], settings: FitSettings, steps: int, watch: Watch | None
    ) -> None:
        self.crew = crew
        self.parameters = parameters
        self.optimizer = Optimizer(crew, parameters, settings)
        self.thawing = Thawing(crew.network, parameters, settings, steps)
        self.average = Average(parameters, settings, steps)
        self.watcher = Watcher(watch, parameters, settings)

    def look(self, step: int) -> float | None:
        """Measure the model that there would be if the training ended after ``step`` steps."""
        if self.watcher.watch is None:
            return None
        self.optimizer.settle()
        with self.average.in_place():
            self.crew.publish(self.parameters)
            return self.watcher.look(step)

    def finish(self) -> None:
        """Give the network the weights that it keeps."""
        self.optimizer.settle()
        if not self.watcher.put_best():
            self.average.put()
        self.crew.publish(self.parameters)

    def save(self, scratch: Path, step: int, fence: Fence | None) -> None:
        """Write the checkpoint after ``step`` steps. All processes must call; the one with the fence writes."""
        tensors = self.optimizer.tensors() | {"random": torch.get_rng_state()}
        for what, weights in (("average", self.average.weights), ("best", self.watcher.weights)):
            tensors |= {f"{what}/{name}": whole(tensor) for name, tensor in weights.items()}
        if fence is not None:
            fence.check()
            checkpoint.save(scratch, tensors, {"step": step} | self.watcher.position())

    def resume(self, scratch: Path) -> int:
        """Go on from the checkpoint; how many steps were done, 0 where there is none."""
        found = checkpoint.load(scratch)
        if found is None:
            return 0
        tensors, position = found
        torch.set_rng_state(tensors["random"])
        self.optimizer.resume(tensors)
        self.average.weights = self._under("average/", tensors)
        self.watcher.weights = self._under("best/", tensors)
        self.watcher.resume(position)
        return int(position["step"])

    def _under(self, start: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: like(tensors[start + name], parameter)
            for name, parameter in self.parameters.items()
            if start + name in tensors
        }
