"""Two processes under torchrun learn what one process learns."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.models import tiny
from tests.training import trained_by_two


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def two(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What two processes found, case by case."""
    folder = tmp_path_factory.mktemp("two")
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, "-m", "tests.training.trained_by_two", str(base), str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return found


@pytest.mark.parametrize("case", trained_by_two.CASES)
def test_two_processes_give_the_loss_curve_of_one(base: Path, tmp_path: Path, two: dict[str, Any], case: str) -> None:
    settings = trained_by_two.CASES[case].model_copy(update={"shard": False})
    one = trained_by_two.train(base, tmp_path, settings)
    assert len(two[case]["losses"]) > 5
    limit = 1e-5 if settings.precision == "fp32" else 0.1  # bf16 rounds, and not the same way in other batches
    assert two[case]["losses"] == pytest.approx(one["losses"], abs=limit)
    assert two[case]["seen"] == pytest.approx(one["seen"], abs=limit)
    assert two[case]["weights"] == pytest.approx(one["weights"], rel=10 * limit, abs=10 * limit)


@pytest.mark.parametrize("case", ["ddp", "fsdp"])
def test_two_processes_that_were_interrupted_go_on_to_the_same_weights(two: dict[str, Any], case: str) -> None:
    assert two[f"{case}, resumed"]["sha256"] == two[case]["sha256"]
    assert len(two[f"{case}, resumed"]["losses"]) == len(two[case]["losses"]) - 5
