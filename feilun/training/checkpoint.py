"""The whole state of a training, in one safetensors file: it is there complete or not at all, and runs no code.

Trained weights, their mean and the best of them, the optimiser's moments and the random state are tensors; where the
training stands is JSON in the file's metadata. What is frozen is not stored: it is the base's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
        save_file({k: v.contiguous() for k, v in tensors.items()}, partial, {"position": json.dumps(position)})
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
    """Tensors and position of the last checkpoint, or None where there is none."""
    if not (folder / FILE).exists():
        return None
    with safe_open(folder / FILE, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        return tensors, json.loads(file.metadata()["position"])
