"""Reading weights: safetensors by content, finite by value. Nothing is ever unpickled (RELIABILITY 40, 41)."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from feilun.errors import ArtifactError

_PICKLES = {b"\x80": "a pickle", b"PK": "a zip archive, as torch.save writes", b"\x1f\x8b": "a gzip archive"}


def read(place: Path) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors file, by name.

    Raises:
        ArtifactError: the file is missing, is damaged or something else, whatever it is called, or has a value that is
            not finite.
    """
    try:
        with safe_open(place, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"the weights are not safetensors: {_what_it_is(place)}",
            where=str(place),
            hint="only safetensors are read: other formats can run code when they are opened",
        ) from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ArtifactError(f"the tensor '{name}' has a value that is not finite", where=str(place))
    return tensors


def _what_it_is(place: Path) -> str:
    if not place.is_file():
        return "there is no such file"
    with place.open("rb") as file:
        head = file.read(2)
    return next((what for magic, what in _PICKLES.items() if head.startswith(magic)), "damaged, or of another format")
