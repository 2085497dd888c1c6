"""What a disk did to a checkpoint is noticed, told, and mended by starting again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from feilun.training import checkpoint

TENSORS = {
    "weights": torch.randn(50, 20),
    "narrow": torch.randn(3).bfloat16(),
    "one": torch.tensor(3),
    "none": torch.zeros(0),
}
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "nothing left": lambda whole: b"",
    "cut": lambda whole: whole[:100],
    "cut in the weights": lambda whole: whole[:-100],
    "zeroed": lambda whole: whole[:-400] + bytes(400),
    "another position": lambda whole: whole.replace(b"step", b"stop"),
    "another file": lambda whole: b"\x80\x04.",
}


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, TENSORS, {"step": 7})
    found = checkpoint.load(tmp_path)
    assert found is not None and found[1] == {"step": 7}
    assert all(torch.equal(found[0][name], tensor) for name, tensor in TENSORS.items())


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_checkpoint_is_told_of_and_not_used(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    checkpoint.save(tmp_path, TENSORS, {"step": 7})
    place = tmp_path / checkpoint.FILE
    place.write_bytes(damage(place.read_bytes()))
    with pytest.warns(RuntimeWarning, match="starts again from the beginning"):
        assert checkpoint.load(tmp_path) is None
    checkpoint.save(tmp_path, TENSORS, {"step": 3})
    found = checkpoint.load(tmp_path)
    assert found is not None and found[1] == {"step": 3}
