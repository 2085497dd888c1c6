"""RELIABILITY 46, 47 and 48: not finite, interrupted, killed, no space."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from feilun.errors import StepError
from feilun.models import network, weights
from feilun.tasks import classify
from feilun.tasks.options import TaskOptions
from feilun.training import checkpoint, fencing
from feilun.training.loop import fit
from feilun.training.settings import FitSettings
from tests.models import tiny

SETTINGS = FitSettings(epochs=2, learning_rate=5e-3, batch_tokens=256, checkpoint_steps=3, freeze_layers=0, seed=7)
LABELS = sorted(tiny.SAYS)


class Task:
    """A fresh network, the same each time, and what it is to learn."""

    def __init__(self, base: Path) -> None:
        self.network = network.load(base, tiny.CONTEXT)
        self.network.relabel(LABELS, seed=0)
        self.examples = classify.examples(tiny.frame(120), self.network, TaskOptions())

    def train(self, scratch: Path, settings: FitSettings = SETTINGS, steps: int | None = None) -> list[float]:
        """Losses of the steps taken; stops after ``steps`` as an interruption would."""
        scratch.mkdir(exist_ok=True)
        losses = []
        for progress in fit(self.network, self.examples, classify.losses, settings, scratch):
            losses.append(progress.loss)
            if progress.step == steps:
                break
        return losses

    def sha256(self) -> str:
        """Of every weight."""
        digest = hashlib.sha256()
        for name, value in sorted(self.network.state_dict().items()):
            digest.update(name.encode() + value.numpy().tobytes())
        return digest.hexdigest()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def uninterrupted(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, int]:
    """The weights at the end, and how many steps that took."""
    task = Task(base)
    losses = task.train(tmp_path_factory.mktemp("whole"))
    return task.sha256(), len(losses)


def test_the_loss_falls(base: Path, tmp_path: Path) -> None:
    losses = Task(base).train(tmp_path, SETTINGS.model_copy(update={"epochs": 8}))
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(
    base: Path, tmp_path: Path, uninterrupted: tuple[str, int]
) -> None:
    same, other = Task(base), Task(base)
    torch.rand(5)  # whatever was drawn before does not matter
    same.train(tmp_path / "same")
    other.train(tmp_path / "other", SETTINGS.model_copy(update={"seed": 8}))
    assert same.sha256() == uninterrupted[0] != other.sha256()


@settings(max_examples=8, deadline=None)
@given(st.data())
def test_interrupted_anywhere_and_resumed_gives_the_same_weights(
    base: Path, tmp_path_factory: pytest.TempPathFactory, uninterrupted: tuple[str, int], data: st.DataObject
) -> None:
    scratch = tmp_path_factory.mktemp("interrupted")
    for stop in sorted(data.draw(st.lists(st.integers(1, uninterrupted[1]), max_size=3))):
        Task(base).train(scratch, steps=stop)
    task = Task(base)
    left = task.train(scratch)
    assert task.sha256() == uninterrupted[0]
    assert len(left) <= uninterrupted[1]


def test_a_resumed_training_does_not_begin_again(base: Path, tmp_path: Path, uninterrupted: tuple[str, int]) -> None:
    Task(base).train(tmp_path, steps=7)
    assert len(Task(base).train(tmp_path)) == uninterrupted[1] - 6


KILLED = """
import sys
from pathlib import Path
from tests.training.test_loop import Task
task = Task(Path(sys.argv[1]))
print("training", flush=True)
task.train(Path(sys.argv[2]))
"""


def test_killed_at_random_instants_and_resumed_gives_the_same_weights(
    base: Path, tmp_path: Path, uninterrupted: tuple[str, int]
) -> None:
    """Case 47, with kill -9 of a real process; every third step saves, so some of the kills fall into a save."""
    task = tmp_path / "scratch"
    command = [sys.executable, "-W", "ignore", "-c", KILLED, str(base), str(task)]
    kills = 0
    for wait in (0.02, 0.1, 0.2):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "training\n"
            time.sleep(wait)
            process.send_signal(signal.SIGKILL)
        kills += process.returncode == -signal.SIGKILL
    assert kills
    resumed = Task(base)
    resumed.train(task)
    assert resumed.sha256() == uninterrupted[0]


def spoiled(at: int, how: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """The task's losses, spoiled in one call."""
    calls = 0

    def losses(net: network.Network, examples: classify.Examples, chosen: Sequence[int]) -> Tensor:
        nonlocal calls
        calls += 1
        loss = classify.losses(net, examples, chosen)
        return how(loss) if calls == at else loss

    return losses


NOT_FINITE: dict[str, Callable[[Tensor], Tensor]] = {
    "a loss that is NaN": lambda loss: loss * float("nan"),
    "a loss that is infinite": lambda loss: loss + float("inf"),
    "a gradient that is NaN under a finite loss": lambda loss: loss + 0 * torch.sqrt(loss - loss.detach()),
}


@pytest.mark.parametrize("how", NOT_FINITE.values(), ids=NOT_FINITE.keys())
def test_what_is_not_finite_stops_before_the_step_and_the_checkpoint_stays(
    base: Path, tmp_path: Path, how: Callable[[Tensor], Tensor]
) -> None:
    """Case 46."""
    task, reference = Task(base), Task(base)
    reference.train(tmp_path / "reference", steps=7)
    with pytest.raises(StepError, match="step 8 of"):
        list(fit(task.network, task.examples, spoiled(8, how), SETTINGS, tmp_path))
    assert task.sha256() == reference.sha256()  # the eighth step was not taken
    found = checkpoint.load(tmp_path)
    assert found is not None and found[1]["step"] == 6
    assert all(torch.isfinite(t).all() for t in found[0].values())


def test_without_space_for_a_checkpoint_the_one_before_stays(
    base: Path, tmp_path: Path, uninterrupted: tuple[str, int]
) -> None:
    """Case 48: the file system refuses in the middle of a save; what was saved before is whole."""
    Task(base).train(tmp_path, steps=4)
    before = (tmp_path / checkpoint.FILE).read_bytes()
    code = f"""
import resource, signal
from pathlib import Path
from tests.training.test_loop import Task
task = Task(Path({str(base)!r}))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) // 2}, {len(before) // 2}))
task.train(Path({str(tmp_path)!r}))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "StepError" in done.stderr and "File too large" in done.stderr
    assert (tmp_path / checkpoint.FILE).read_bytes() == before
    task = Task(base)
    task.train(tmp_path)
    assert task.sha256() == uninterrupted[0]


def test_what_is_frozen_does_not_move(base: Path, tmp_path: Path) -> None:
    task, before = Task(base), Task(base).network.state_dict()
    task.train(tmp_path, SETTINGS.model_copy(update={"freeze_layers": 1, "epochs": 1}))
    after = task.network.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert not any("embeddings" in name or "layer.0." in name for name in moved)
    assert {"head.weight", "encoder.encoder.layer.1.output.dense.weight"} <= moved


def test_a_checkpoint_is_safetensors_and_holds_no_pickle(base: Path, tmp_path: Path) -> None:
    Task(base).train(tmp_path, steps=3)
    assert {f.name for f in tmp_path.iterdir()} == {checkpoint.FILE, fencing.FILE}
    assert weights.read(tmp_path / checkpoint.FILE).keys() > {"random", "weight/head.weight", "exp_avg/head.weight"}


def test_without_memory_the_training_says_so_and_goes_on_from_its_checkpoint_case_48(
    base: Path, tmp_path: Path, uninterrupted: tuple[str, int]
) -> None:
    """The allocator really fails, in the middle of a step: no machine has so much."""
    task = Task(base)
    losses = spoiled(8, lambda loss: loss + torch.ones(2**46).sum())
    with pytest.raises(StepError, match="not enough memory") as caught:
        list(fit(task.network, task.examples, losses, SETTINGS, tmp_path))
    assert caught.value.where == f"step 8 of {uninterrupted[1]}"
    task = Task(base)
    assert len(task.train(tmp_path)) == uninterrupted[1] - 6
    assert task.sha256() == uninterrupted[0]


def test_an_error_of_another_kind_is_not_taken_for_a_lack_of_memory(base: Path, tmp_path: Path) -> None:
    task = Task(base)
    losses = spoiled(2, lambda loss: loss + torch.ones(len(loss) + 1))
    with pytest.raises(RuntimeError, match="size of tensor"):
        list(fit(task.network, task.examples, losses, SETTINGS, tmp_path))
