"""RELIABILITY 49: two trainers on one job."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from feilun.errors import ConflictError
from feilun.tasks import classify
from feilun.training import checkpoint
from feilun.training.fencing import Fence
from feilun.training.loop import fit
from tests.models import tiny
from tests.training.test_loop import SETTINGS, Task

TRAINER = """
import sys
from pathlib import Path
from tests.training.test_loop import SETTINGS, Task, classify, fit
task = Task(Path(sys.argv[1]))
for progress in fit(task.network, task.examples, classify.losses, SETTINGS, Path(sys.argv[2])):
    print(progress.step, flush=True)
    if progress.step == 4:
        sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_base(tmp_path_factory.mktemp("base"))


def test_the_second_trainer_on_a_job_exits_and_the_first_goes_on_case_49(base: Path, tmp_path: Path) -> None:
    whole = Task(base)
    whole.train(tmp_path / "whole")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    command = [sys.executable, "-W", "ignore", "-c", TRAINER, str(base), str(scratch)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdin is not None and first.stdout is not None
        while first.stdout.readline() != "4\n":
            pass
        second, saved = Task(base), (scratch / checkpoint.FILE).read_bytes()
        with pytest.raises(ConflictError, match="another trainer is at work"):
            second.train(scratch)
        assert (scratch / checkpoint.FILE).read_bytes() == saved
        assert second.sha256() == Task(base).sha256()
        first.stdin.write("go on\n")
        first.stdin.close()
        last = first.stdout.read().split()[-1]
    assert first.returncode == 0
    assert int(last) == len(Task(base).train(tmp_path / "again"))
    resumed = Task(base)  # from the first one's last checkpoint; the lock went with its process
    resumed.train(scratch)
    assert resumed.sha256() == whole.sha256()


def test_a_trainer_whose_job_was_taken_over_writes_nothing_more_case_49(base: Path, tmp_path: Path) -> None:
    """Where the lock does not reach: the older trainer finds the newer one's number before it writes."""
    task = Task(base)
    with pytest.raises(ConflictError, match="has taken over"):
        for progress in fit(task.network, task.examples, classify.losses, SETTINGS, tmp_path):
            if progress.step == 4:
                saved = (tmp_path / checkpoint.FILE).read_bytes()
                with (tmp_path / "trainer").open("ab") as file:  # what a trainer on another machine does
                    file.write(b".")
    assert (tmp_path / checkpoint.FILE).read_bytes() == saved


def test_a_trainer_whose_folder_was_replaced_writes_nothing_into_the_new_one_case_49(
    base: Path, tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    older = Fence(scratch)
    older.check()
    scratch.rename(tmp_path / "gone")
    with pytest.raises(ConflictError, match="has taken over"):
        older.check()
    scratch.mkdir()
    newer = Fence(scratch)
    assert newer.number == older.number == 1  # the numbers are equal; the folders are not
    with pytest.raises(ConflictError, match="has taken over"):
        older.check()
    newer.check()
    older.close()
    newer.close()


def test_trainers_one_after_the_other_count_up(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        fence = Fence(tmp_path)
        assert fence.number == number
        fence.check()
        fence.close()
