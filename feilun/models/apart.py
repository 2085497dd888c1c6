"""What a tuned model is beside its base: a head, and perhaps LoRA's changes of the base's linear modules.

The folder, as compress writes it (``apart = true``): config.json with labels, head and context, head.safetensors where
the head has weights, and ``adapter/`` in peft's format. Read without torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from feilun.errors import ArtifactError
from feilun.models.shapes import SHAPES, Shape

Floats = NDArray[np.float32]
FOLDER, CONFIG, WEIGHTS = "adapter", "adapter_config.json", "adapter_model.safetensors"
HEAD = "head.safetensors"
PREFIX = "base_model.model."  # how peft begins the name of a module
UNUSUAL = ("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "layer_replication", "lora_bias")


@dataclass(frozen=True)
class Head:
    """``feilun.models.heads.Head`` for one text, in numpy: ``weight`` (C, H) and ``bias`` (C,), None of a vector."""

    shape: Shape
    weight: Floats | None = None
    bias: Floats | None = None
    spread: float = 1.0
    centre: float = 0.0

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return sum(part.nbytes for part in (self.weight, self.bias) if part is not None)

    def scores(self, states: Floats) -> Floats:
        """(C,) from the mean state (H,), or (L, C) from the states (L, H).

        A sum is added up in the same order whatever else is asked, which a product of matrices does not promise.
        """
        if self.weight is None or self.bias is None:
            length = float(np.sqrt(np.einsum("h,h->", states, states)))
            unit: Floats = states / np.float32(max(length, 1e-12))
            return unit
        found: Floats = np.einsum("...h,ch->...c", states, self.weight) + self.bias
        match self.shape.scores:
            case "softmax":
                raised = np.exp(found - found.max(-1, keepdims=True))
                found = raised / raised.sum(-1, keepdims=True)
            case "sigmoid":
                found = np.float32(0.5) * (np.tanh(np.float32(0.5) * found) + np.float32(1))  # never overflows
            case _ if self.shape.outputs == 1:
                found = found * np.float32(self.spread) + np.float32(self.centre)
        return found


@dataclass(frozen=True)
class Kind:
    """Changes of one kind can share a run: the modules that they change, in order, and their rank."""

    modules: tuple[str, ...]
    rank: int


@dataclass(frozen=True)
class Changes:
    """By module: ``down`` (in, rank) and ``up`` (rank, out), the latter with LoRA's scale in it."""

    kind: Kind
    down: Mapping[str, Floats]
    up: Mapping[str, Floats]

    @property
    def size(self) -> int:
        """Bytes that they take."""
        return sum(part.nbytes for parts in (self.down, self.up) for part in parts.values())


def read_head(folder: Path, name: str, labels: int) -> Head:
    """The head in a model's folder.

    Raises:
        ArtifactError: it is missing, damaged, of an unknown kind, or of another number of labels.
    """
    if name not in SHAPES:
        hint = f"known are {', '.join(SHAPES)}"
        raise ArtifactError(f"heads of the kind '{name}' are not known", where=str(folder / "config.json"), hint=hint)
    shape = SHAPES[name]
    if shape.scores == "unit":
        return Head(shape)
    found = read_tensors(folder / HEAD)
    weight, bias = found.get("weight"), found.get("bias")
    outputs = shape.outputs or max(1, labels)
    if weight is None or bias is None or weight.ndim != 2 or weight.shape[0] != outputs or bias.shape != (outputs,):
        raise ArtifactError("the head does not fit the labels", where=str(folder / HEAD))
    if shape.outputs != 1:
        return Head(shape, weight, bias)
    one = np.ones(1, np.float32)
    return Head(shape, weight, bias, float(found.get("spread", one)[0]), float(found.get("centre", 0 * one)[0]))


def read_changes(folder: Path) -> Changes:
    """LoRA's changes in a model's folder.

    Raises:
        ArtifactError: they are missing or damaged, or are not plain LoRA of one rank.
    """
    told = read_configuration(folder)
    tensors = read_tensors(folder / FOLDER / WEIGHTS)
    scale = told["lora_alpha"] / (told["r"] ** 0.5 if told.get("use_rslora") else told["r"])
    down: dict[str, Floats] = {}
    up: dict[str, Floats] = {}
    for name, tensor in tensors.items():
        module, _, which = name.removeprefix(PREFIX).rpartition(".lora_")
        if not name.startswith(PREFIX) or not module or which not in ("A.weight", "B.weight") or tensor.ndim != 2:
            raise ArtifactError(f"the adapter has more than LoRA's matrices: {name}", where=str(folder / FOLDER))
        part = np.ascontiguousarray(tensor.T) * np.float32(1.0 if which == "A.weight" else scale)
        (down if which == "A.weight" else up)[module] = part
    ranks = {part.shape[1] for part in down.values()} | {part.shape[0] for part in up.values()}
    if not down or down.keys() != up.keys() or ranks != {told["r"]}:
        raise ArtifactError("the adapter's matrices do not belong together", where=str(folder / FOLDER))
    return Changes(Kind(tuple(sorted(down)), told["r"]), down, up)


def read_configuration(folder: Path) -> dict[str, Any]:
    """``adapter_config.json``, of plain LoRA of one rank.

    Raises:
        ArtifactError: it cannot be read, or describes something else.
    """
    place = folder / FOLDER / CONFIG
    try:
        told = json.loads(place.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError("the adapter's configuration cannot be read", where=str(place)) from error
    if not isinstance(told, dict) or told.get("peft_type") != "LORA":
        raise ArtifactError("the adapter is not LoRA", where=str(place))
    unusual = [name for name in UNUSUAL if told.get(name)]
    if unusual or told.get("bias", "none") != "none":
        what = f"adapters with {', '.join(unusual) or 'biases'} cannot be kept apart from their base"
        raise ArtifactError(what, where=str(place), hint="compress without apart merges it")
    if not (isinstance(told.get("r"), int) and told["r"] > 0 and isinstance(told.get("lora_alpha"), int | float)):
        raise ArtifactError("the adapter's configuration cannot be read", where=str(place))
    return told


def read_tensors(place: Path) -> dict[str, Floats]:
    """All tensors of a safetensors file in float32, by name.

    Raises:
        ArtifactError: it is missing or damaged, or has a value that is not finite.
    """
    try:
        with safe_open(place, framework="np") as file:
            found = {name: np.asarray(file.get_tensor(name), np.float32) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        raise ArtifactError("the weights cannot be read", where=str(place), hint=str(error)[:200]) from error
    for name, tensor in found.items():
        if not np.isfinite(tensor).all():
            raise ArtifactError(f"the tensor '{name}' has a value that is not finite", where=str(place))
    return found
