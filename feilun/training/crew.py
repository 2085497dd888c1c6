"""The processes that train one network together, each on its part of every step.

``torchrun`` starts them and says who is who (RANK, WORLD_SIZE). What they learn does not depend on how many they are:
they share out the batches of a step, or the rows of its batches, and add up what they find. Each process has all
weights (DDP), or a part of each (FSDP2) where ``settings.shard`` says so; what is read and written is always whole.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from feilun.errors import SettingError
from feilun.training.settings import FitSettings

Part = tuple[Sequence[int], float]  # rows, and what their losses count: 0 where a process would have nothing to do


class _Losses(nn.Module):
    """The losses as a module: DDP and FSDP2 act when a module is called, whatever a task calls inside."""

    def __init__(self, network: nn.Module, examples: Any, losses: Callable[..., Tensor]) -> None:
        super().__init__()
        self.network, self.examples, self.losses = network, examples, losses
        self.eval()  # as the network is

    def forward(self, chosen: Sequence[int]) -> Tensor:
        return self.losses(self.network, self.examples, chosen)


class Crew:
    """This process among the others; alone where torchrun did not start it.

    ``network`` is what is trained: the one that was given, or a sharded copy of it.
    """

    def __init__(self, network: Any, settings: FitSettings, device: torch.device, *, whole: bool = False) -> None:
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        self.settings, self.device = settings, device
        self.shards = self.size > 1 and settings.shard
        if self.size > 1 and settings.unfreeze:
            raise SettingError("layers thaw in one process only", where="unfreeze", hint="use unfreeze = 0")
        if whole and settings.accumulation % self.size:
            raise SettingError(
                f"{self.size} processes cannot share a batch of this task: its rows are compared with each other",
                where="accumulation",
                hint=f"use a multiple of {self.size}: each process then has batches of its own",
            )
        if self.size > 1 and not distributed.is_initialized():
            distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        self.given = network
        self.network = copy.deepcopy(network) if self.shards else network
        self.network.to(device)
        self.module: nn.Module | None = None

    def wrap(self, examples: Any, losses: Callable[..., Tensor]) -> Callable[[Sequence[int]], Tensor]:
        """The losses of chosen rows, such that a backward pass averages the gradients of all processes."""
        self.module = _Losses(self.network, examples, losses)
        if self.shards:
            mesh = init_device_mesh(self.device.type, (self.size,))
            for layer in self.network.layers:
                fully_shard(layer, mesh=mesh)
            fully_shard(self.module, mesh=mesh)
        elif self.size > 1:
            self.module = DistributedDataParallel(self.module, broadcast_buffers=False)
        return self.module

    def parts(self, batches: Sequence[Sequence[int]]) -> list[Part]:
        """What this process does of a step. All have equally many parts, for they meet in each backward pass.

        Batches stay whole where the step has enough of them: that matters to losses that compare a batch's rows.
        """
        if self.size == 1:
            return [(batch, 1.0) for batch in batches]
        if self.settings.accumulation % self.size == 0:
            mine: list[Part] = [(batch, 1.0) for batch in batches[self.rank :: self.size]]
            idle = -(-len(batches) // self.size) - len(mine)
            return mine + [(batches[0][:1], 0.0)] * idle
        return [(b[self.rank :: self.size], 1.0) if self.rank < len(b) else (b[:1], 0.0) for b in batches]

    @contextmanager
    def adding(self, last: bool) -> Iterator[None]:
        """Gradients add up in here; the processes meet in the ``last`` backward pass of a step only."""
        if isinstance(self.module, FSDPModule):
            self.module.set_requires_gradient_sync(last)
        if isinstance(self.module, DistributedDataParallel) and not last:
            with self.module.no_sync():
                yield
        else:
            yield

    def total(self, number: Tensor) -> float:
        """The sum of what each process has."""
        if self.size > 1:
            distributed.all_reduce(number)
        return number.item()

    def publish(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Give the network that was given the trained weights, where a copy was trained. All processes must call."""
        if self.shards:
            theirs = dict(self.given.named_parameters())
            with torch.no_grad():
                for name, parameter in parameters.items():
                    theirs[name].copy_(whole(parameter))


def whole(tensor: Tensor) -> Tensor:
    """The full tensor; where it is sharded, all processes must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, other: Tensor) -> Tensor:
    """A full tensor where, and sharded as, another one is."""
    if isinstance(other, DTensor):
        return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements)
    return tensor.to(other.device)
