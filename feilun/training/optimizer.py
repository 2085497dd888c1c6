"""AdamW in one fused kernel, on what is not frozen; the rate rises, then falls in a straight line."""

from __future__ import annotations

from torch import nn
from torch.optim import AdamW

from feilun.models.network import Network
from feilun.training.settings import FitSettings

HEAD = 10.0  # the head starts at random, the encoder does not: its rate is this much higher


def trained(network: Network, settings: FitSettings) -> dict[str, nn.Parameter]:
    """Freeze what the settings say; the parameters that are left, by name."""
    if settings.freeze_embeddings:
        network.embeddings.requires_grad_(False)
    for layer in network.layers[: settings.freeze_layers]:
        layer.requires_grad_(False)
    return {name: p for name, p in network.named_parameters() if p.requires_grad}


def build(parameters: dict[str, nn.Parameter], settings: FitSettings) -> AdamW:
    """The optimiser; each group's ``highest`` is its rate at the top of the schedule."""
    groups = []
    for is_head in (False, True):
        for decays in (False, True):
            chosen = [
                p for name, p in parameters.items() if name.startswith("head.") == is_head and (p.ndim > 1) == decays
            ]
            highest = settings.learning_rate * (HEAD if is_head else 1.0)
            decay = settings.weight_decay if decays else 0.0
            groups.append({"params": chosen, "lr": highest, "highest": highest, "weight_decay": decay})
    return AdamW([g for g in groups if g["params"]], fused=True)


def set_rate(optimizer: AdamW, share: float) -> None:
    """Set each group's rate to a share of its highest."""
    for group in optimizer.param_groups:
        group["lr"] = group["highest"] * share


def schedule(step: int, steps: int, warmup: float) -> float:
    """The share of the highest rate at ``step``, counted from 0.

    >>> [round(schedule(s, 10, warmup=0.2), 3) for s in range(10)]
    [0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]
    """
    rising = warmup * steps
    if step < rising:
        return min(1.0, (step + 1) / rising)
    return (steps - step) / (steps - rising)
