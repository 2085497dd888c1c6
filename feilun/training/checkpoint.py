"""The whole state of a training, in one safetensors file: it is there complete or not at all, and runs no code.

Trained weights, their mean and the best of them, the optimiser's moments and the random state are tensors; where the
training stands is JSON in the file's metadata, and so is the digest of both, for a disk that lost part of what it took.
What is frozen is not stored: it is the base's.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from feilun.errors import StepError
from feilun.store.artifacts import sync_folder

FILE = "checkpoint.safetensors"


def save(folder: Path, tensors: Mapping[str, Tensor], position: Mapping[str, Any]) -> None:
    """Replace the checkpoint in ``folder``; the one before survives a failure.

    Raises:
        StepError: the disk is full, or does not write for another reason (RELIABILITY 48).
    """
    partial = folder / (FILE + ".partial")
    try:
        whole, where = {k: v.contiguous() for k, v in tensors.items()}, json.dumps(position)
        save_file(whole, partial, {"position": where, "sha256": _digest(whole, where)})
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(folder / FILE)
        sync_folder(folder)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)  # half a file would take the room that is missing
        raise StepError(
            f"the checkpoint cannot be written: {error}",
            where=str(folder),
            hint="free some disk and run again: it goes on from the checkpoint before",
            code="no-checkpoint",
        ) from error


def load(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and position of the last checkpoint, or None where there is none, or a damaged one.

    A damaged one is told of and not used: the training starts again from the beginning and replaces it.
    """
    place = folder / FILE
    if not place.exists():
        return None
    try:
        with safe_open(place, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            told = file.metadata() or {}
    except SafetensorError:
        tensors, told = {}, {}
    if not tensors or told.get("sha256") != _digest(tensors, told.get("position", "")):
        told_of = f"{place} is damaged: the training starts again from the beginning"
        warnings.warn(told_of, RuntimeWarning, stacklevel=2)
        return None
    return tensors, json.loads(told["position"])


def _digest(tensors: Mapping[str, Tensor], position: str) -> str:
    found = hashlib.sha256(position.encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        found.update(tensor.detach().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
