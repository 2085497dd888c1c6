"""AdamW in one fused kernel, on what is not frozen."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from feilun.models.network import Network
from feilun.training import rows
from feilun.training.crew import Crew, like, whole
from feilun.training.settings import FitSettings

HEAD = 10.0  # the head starts at random, the encoder does not: its rate is this much higher


def freeze(network: Network, settings: FitSettings) -> None:
    """Freeze what the settings say, beside what is frozen already."""
    if settings.freeze_embeddings:
        network.embeddings.requires_grad_(False)
    for layer in network.layers[: settings.freeze_layers]:
        layer.requires_grad_(False)


def trained(network: Network) -> dict[str, nn.Parameter]:
    """The parameters that are not frozen, by name."""
    return {name: p for name, p in network.named_parameters() if p.requires_grad}


class Optimizer:
    """AdamW with a higher rate for the head and no decay of what is not a matrix.

    The table of token embeddings, where it is trained, has an optimiser of its own (``rows``), unless all of it is read
    at every step anyway: for a mean of the weights, or by several processes.
    """

    def __init__(self, crew: Crew, parameters: Mapping[str, nn.Parameter], settings: FitSettings) -> None:
        self.parameters = dict(parameters)
        self.clip = settings.clip
        lazy = len(parameters) > 1 and crew.size == 1 and not settings.ema and not settings.average_last
        found = rows.table(crew.network, parameters) if lazy else None
        self.table, self.rows = "", None
        if found is not None:
            self.table, self.rows = found[0], rows.Rows(found[1], settings.weight_decay)
            self.highest = settings.learning_rate
        dense = {name: p for name, p in parameters.items() if name != self.table}
        groups = []
        for is_head in (False, True):
            for decays in (False, True):
                chosen = [
                    p for name, p in dense.items() if name.startswith("head.") == is_head and (p.ndim > 1) == decays
                ]
                highest = settings.learning_rate * (HEAD if is_head else 1.0)
                decay = settings.weight_decay if decays else 0.0
                groups.append({"params": chosen, "lr": highest, "highest": highest, "weight_decay": decay})
        self.adam = AdamW([g for g in groups if g["params"]], fused=True)

    def shorten(self) -> float:
        """Shorten the gradient to ``clip`` where it is longer; its length before that."""
        gradients = [p.grad for name, p in self.parameters.items() if p.grad is not None and name != self.table]
        touched = self.rows.values() if self.rows else None
        if touched is not None:
            gradients.append(touched)
        length = nn.utils.get_total_norm(gradients)
        factor = (self.clip / (length + 1e-6)).clamp(max=1.0)
        if factor < 1.0:  # whole passes over the gradients cost more than this look
            torch._foreach_mul_(gradients, factor)
        return whole(length).item()

    def step(self, share: float) -> None:
        """Move the weights at a share of each group's highest rate, and forget the gradient."""
        for group in self.adam.param_groups:
            group["lr"] = group["highest"] * share
        self.adam.step()
        self.adam.zero_grad()
        if self.rows:
            self.rows.step(self.highest * share)

    def settle(self) -> None:
        """Make all weights those after the last step; to be called before they are read."""
        if self.rows:
            self.rows.settle()

    def close(self) -> None:
        """Leave the network as it was found, but for its weights."""
        if self.rows:
            self.rows.close()

    def tensors(self) -> dict[str, Tensor]:
        """For the checkpoint: weights and moments."""
        found = {f"weight/{name}": whole(p.data) for name, p in self.parameters.items()}
        for name, parameter in self.parameters.items():
            found |= {f"{key}/{name}": whole(value) for key, value in self.adam.state[parameter].items()}
        if self.rows:
            found |= {f"{key}/{self.table}": value for key, value in self.rows.tensors().items()}
        return found

    def resume(self, tensors: Mapping[str, Tensor]) -> None:
        """Put weights and moments back as they were."""
        for name, parameter in self.parameters.items():
            with torch.no_grad():
                parameter.copy_(like(tensors[f"weight/{name}"], parameter))
            if f"step/{name}" in tensors:  # a weight that never moved has no moments
                moments = {key: like(tensors[f"{key}/{name}"], parameter) for key in ("exp_avg", "exp_avg_sq")}
                self.adam.state[parameter] = moments | {"step": tensors[f"step/{name}"].to(parameter.device)}
        if self.rows:
            keys = ("exp_avg", "exp_avg_sq", "last", "rates")
            self.rows.resume({key: tensors[f"{key}/{self.table}"] for key in keys})
