"""Weights are what they claim to be, and nothing that could run is let in (RELIABILITY 40, 41)."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from feilun.catalog import content
from feilun.errors import ArtifactError


class Sentinel:
    """Unpickling this would create a file."""

    def __init__(self, place: Path) -> None:
        self.place = str(place)

    def __reduce__(self):
        return os.mkdir, (self.place,)


@pytest.fixture
def weights(tmp_path) -> Path:
    save_file({"a": np.ones((2, 3), np.float32), "b": np.zeros(4, np.int64)}, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_real_weights_pass(weights):
    content.check(weights)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "name", ["model.safetensors", "pytorch_model.bin", "model.pt", "config.json", "a.ckpt", "m.xml"]
)
def test_a_pickle_is_refused_whatever_it_is_called_case_41(tmp_path, protocol, name):
    (tmp_path / name).write_bytes(pickle.dumps(Sentinel(tmp_path / "sentinel"), protocol))
    with pytest.raises(ArtifactError) as caught:
        content.check(tmp_path / name)
    assert caught.value.name == "unsafe-file"
    assert not (tmp_path / "sentinel").exists()


def test_a_torch_archive_is_refused_case_41(tmp_path):
    place = tmp_path / "model.safetensors"
    with zipfile.ZipFile(place, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Sentinel(tmp_path / "sentinel")))
    with pytest.raises(ArtifactError, match="holds a pickle"):
        content.check(place)
    assert not (tmp_path / "sentinel").exists()


def header(body: object, rest: bytes = b"") -> bytes:
    text = json.dumps(body).encode()
    return struct.pack("<Q", len(text)) + text + rest


TENSOR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0\0\0",
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 10_000) + b"{}",
        struct.pack("<Q", 4) + b"\xff\xff\xff\xff",
        header({"a": TENSOR}, bytes(7)),
        header({"a": TENSOR}, bytes(9)),
        header({"a": TENSOR, "b": TENSOR}, bytes(8)),
        header({"a": {**TENSOR, "data_offsets": [4, 12]}}, bytes(12)),
        header({"a": {**TENSOR, "dtype": "F99"}}, bytes(8)),
        header({"a": {**TENSOR, "shape": [2**62]}}, bytes(8)),
        header({"a": {**TENSOR, "shape": [-2]}}, bytes(8)),
        header({"a": {**TENSOR, "shape": "many"}}, bytes(8)),
        header({"a": {**TENSOR, "shape": None}}, bytes(8)),
        header({"a": {**TENSOR, "data_offsets": [0]}}, bytes(8)),
        header({"a": {**TENSOR, "data_offsets": [8, 0]}}, bytes(8)),
        header({"a": {**TENSOR, "dtype": ["F32"]}}, bytes(8)),
        header({"a": "text"}, bytes(8)),
        header(["a"], bytes(8)),
        struct.pack("<Q", 100_000) + b"[" * 100_000,
    ],
)
def test_corrupt_weights_are_refused_case_40(tmp_path, body):
    (tmp_path / "model.safetensors").write_bytes(body)
    with pytest.raises(ArtifactError) as caught:
        content.check(tmp_path / "model.safetensors")
    assert caught.value.name == "unsafe-file"


@given(st.binary(max_size=400))
def test_no_bytes_make_the_check_fail_otherwise_case_40(tmp_path_factory, body):
    place = tmp_path_factory.getbasetemp() / "any.safetensors"
    place.write_bytes(struct.pack("<Q", max(len(body) - 50, 0)) + body)
    with pytest.raises(ArtifactError):
        content.check(place)


@given(st.text(max_size=300))
def test_rows_of_text_are_never_taken_for_a_pickle(tmp_path_factory, text):
    place = tmp_path_factory.getbasetemp() / "rows.csv"
    place.write_text(text, "utf-8")
    assert not content.is_pickle(place)


@pytest.mark.parametrize("text", ["city\nLondon\nParis\n", "user_id:token\tuser\n", "{}", "# Title\n", "."])
def test_text_that_looks_like_opcodes_is_let_through(tmp_path, text):
    (tmp_path / "README").write_text(text)
    assert not content.is_pickle(tmp_path / "README")


def test_settings_that_are_not_json_and_models_that_are_not_gguf_are_refused(tmp_path):
    for name in ("config.json", "model.gguf", "rows.parquet", "model.xml"):
        (tmp_path / name).write_bytes(b"neither this nor that")
        with pytest.raises(ArtifactError):
            content.check(tmp_path / name)
