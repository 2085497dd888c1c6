"""A run that goes wrong is an error, and never the answer of the run before."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults.house import build_model
from feilun.models import openvino


@pytest.mark.parametrize("threads", [1, 2])
def test_an_engine_that_fails_gives_nothing_out_whatever_the_number_of_its_threads(
    tmp_path: Path, threads: int
) -> None:
    build_model(tmp_path / "model", 1, fragile=True)
    engine = openvino.load(tmp_path / "model", threads=threads)
    before = engine.outputs(engine.encode(["good film"]))[0].tolist()
    with pytest.raises(RuntimeError):
        engine.outputs(engine.encode(["this film"]))
    with pytest.raises(RuntimeError):  # several rectangles, on several streams
        engine.outputs(engine.encode(["this film", "good film " * 10, "bad"]))
    assert engine.outputs(engine.encode(["good film"]))[0].tolist() == before
