"""AdamW in one fused kernel, on what is not frozen."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from feilun.models.network import Network
from feilun.training.crew import like, whole
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
    """AdamW with a higher rate for the head and no decay of what is not a matrix."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], settings: FitSettings) -> None:
        self.parameters = dict(parameters)
        self.clip = settings.clip
        groups = []
        for is_head in (False, True):
            for decays in (False, True):
                chosen = [
                    p
                    for name, p in parameters.items()
                    if name.startswith("head.") == is_head and (p.ndim > 1) == decays
                ]
                highest = settings.learning_rate * (HEAD if is_head else 1.0)
                decay = settings.weight_decay if decays else 0.0
                groups.append({"params": chosen, "lr": highest, "highest": highest, "weight_decay": decay})
        self.adam = AdamW([g for g in groups if g["params"]], fused=True)

    def shorten(self) -> float:
        """Shorten the gradient to ``clip`` where it is longer; its length before that."""
        return whole(nn.utils.clip_grad_norm_(self.parameters.values(), self.clip)).item()

    def step(self, share: float) -> None:
        """Move the weights at a share of each group's highest rate, and forget the gradient."""
        for group in self.adam.param_groups:
            group["lr"] = group["highest"] * share
        self.adam.step()
        self.adam.zero_grad()

    def tensors(self) -> dict[str, Tensor]:
        """For the checkpoint: weights and moments."""
        found = {f"weight/{name}": whole(p.data) for name, p in self.parameters.items()}
        for name, parameter in self.parameters.items():
            found |= {f"{key}/{name}": whole(value) for key, value in self.adam.state[parameter].items()}
        return found

    def resume(self, tensors: Mapping[str, Tensor]) -> None:
        """Put weights and moments back as they were."""
        for name, parameter in self.parameters.items():
            with torch.no_grad():
                parameter.copy_(like(tensors[f"weight/{name}"], parameter))
            if f"step/{name}" in tensors:  # a weight that never moved has no moments
                moments = {key: like(tensors[f"{key}/{name}"], parameter) for key in ("exp_avg", "exp_avg_sq")}
                self.adam.state[parameter] = moments | {"step": tensors[f"step/{name}"].to(parameter.device)}
