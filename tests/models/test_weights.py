"""RELIABILITY 40 and 41: weights are judged by their content, never by their name, and never run code."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from feilun.errors import ArtifactError
from feilun.models import network, weights
from tests.models import tiny


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> tuple[object, tuple[str, int]]:
        return os.open, (str(self.sentinel), os.O_CREAT | os.O_WRONLY)


def header(value: object, data: bytes = b"") -> bytes:
    text = json.dumps(value).encode()
    return struct.pack("<Q", len(text)) + text + data


DAMAGED = {
    "empty": b"",
    "a header of 2^60 bytes": struct.pack("<Q", 2**60) + b"{}",
    "a header that is not JSON": struct.pack("<Q", 4) + b"{{{{",
    "data cut short": header({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, b"1234"),
    "offsets that overlap": header(
        {
            "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
            "b": {"dtype": "F32", "shape": [1], "data_offsets": [2, 6]},
        },
        b"123456",
    ),
    "an unknown type of number": header({"a": {"dtype": "F33", "shape": [1], "data_offsets": [0, 4]}}, b"1234"),
    "a shape of 2^62": header({"a": {"dtype": "F32", "shape": [2**62], "data_offsets": [0, 4]}}, b"1234"),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_weights_are_refused(tmp_path: Path, content: bytes) -> None:
    place = tmp_path / "model.safetensors"
    place.write_bytes(content)
    with pytest.raises(ArtifactError, match="not safetensors"):
        weights.read(place)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model.pt", "model.ckpt"])
@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_a_pickle_is_refused_whatever_its_name_and_its_code_never_runs(tmp_path: Path, name: str, how: str) -> None:
    sentinel, place = tmp_path / "sentinel", tmp_path / name
    if how == "pickle":
        place.write_bytes(pickle.dumps(Bomb(sentinel)))
    else:
        torch.save({"weight": Bomb(sentinel)}, place)
        assert zipfile.is_zipfile(place)
    with pytest.raises(ArtifactError, match="pickle" if how == "pickle" else "zip archive"):
        weights.read(place)
    assert not sentinel.exists()


def test_a_base_with_only_a_pickle_beside_its_configuration_is_refused(tmp_path: Path) -> None:
    sentinel, folder = tmp_path / "sentinel", tiny.write_base(tmp_path / "base")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(sentinel)))
    with pytest.raises(ArtifactError, match="no such file"):
        network.load(folder, 8)
    assert not sentinel.exists()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path: Path, bad: float) -> None:
    save_file({"fine": torch.ones(2), "broken": torch.tensor([0.0, bad])}, tmp_path / "model.safetensors")
    with pytest.raises(ArtifactError, match="'broken'"):
        weights.read(tmp_path / "model.safetensors")
