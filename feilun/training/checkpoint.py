"""The whole state of a training, in one safetensors file: it is there complete or not at all, and runs no code.

Trained weights, the optimiser's moments and the random state are tensors; where the training stands is JSON in the
file's metadata. What is frozen is not stored: it is the base's.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.optim import Optimizer

from feilun.store.artifacts import sync_folder

FILE = "checkpoint.safetensors"


def save(folder: Path, parameters: dict[str, nn.Parameter], optimizer: Optimizer, position: dict[str, Any]) -> None:
    """Replace the checkpoint in ``folder``; the one before survives a failure."""
    tensors = {"random": torch.get_rng_state()}
    for name, parameter in parameters.items():
        tensors[f"weight/{name}"] = parameter.data
        for key, value in optimizer.state[parameter].items():
            tensors[f"{key}/{name}"] = value
    partial = folder / (FILE + ".partial")
    save_file(tensors, partial, metadata={"position": json.dumps(position)})
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(folder / FILE)
    sync_folder(folder)


def load(folder: Path, parameters: dict[str, nn.Parameter], optimizer: Optimizer) -> dict[str, Any] | None:
    """Put everything back as it was; the position, or None where there is no checkpoint."""
    if not (folder / FILE).exists():
        return None
    with safe_open(folder / FILE, framework="pt") as file:
        position: dict[str, Any] = json.loads(file.metadata()["position"])
        torch.set_rng_state(file.get_tensor("random"))
        for name, parameter in parameters.items():
            parameter.data.copy_(file.get_tensor(f"weight/{name}"))
            for key in ("step", "exp_avg", "exp_avg_sq"):
                optimizer.state[parameter][key] = file.get_tensor(f"{key}/{name}")
    return position
