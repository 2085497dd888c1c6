"""Schedules, averages, what thaws, what is watched: each by itself, and all of them through an interruption."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from feilun.tasks import classify
from feilun.tasks.options import TaskOptions
from feilun.training import packing, schedule, watching
from feilun.training.averaging import Average
from feilun.training.loop import fit
from feilun.training.settings import FitSettings
from feilun.training.thawing import Thawing
from feilun.training.watching import Watch
from tests.models import tiny
from tests.training.test_loop import SETTINGS, Task


def with_(**changes: object) -> FitSettings:
    return FitSettings.model_validate(SETTINGS.model_dump() | changes)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_base(tmp_path_factory.mktemp("base"))


SCHEDULES = st.sampled_from(["linear", "cosine", "wsd", "constant"])


@given(SCHEDULES, st.integers(1, 400), st.floats(0, 0.99), st.floats(0.01, 1))
def test_a_rate_is_above_zero_and_at_most_the_highest_and_rises_before_it_falls(
    name: str, steps: int, warmup: float, decay: float
) -> None:
    settings = FitSettings.model_validate({"schedule": name, "warmup": warmup, "decay": decay})
    shares = [schedule.share(step, steps, settings) for step in range(steps)]
    assert all(0 < share <= 1 for share in shares)
    top = shares.index(max(shares))
    assert shares[: top + 1] == sorted(shares[: top + 1])
    assert shares[top:] == sorted(shares[top:], reverse=True)


def test_schedules_fall_as_they_are_named() -> None:
    def shares(name: str) -> list[float]:
        settings = FitSettings.model_validate({"schedule": name, "warmup": 0, "decay": 0.25})
        return [round(schedule.share(step, 8, settings), 3) for step in range(8)]

    assert shares("constant") == [1.0] * 8
    assert shares("wsd") == [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5]
    assert shares("cosine") == [round((1 + math.cos(math.pi * step / 8)) / 2, 3) for step in range(8)]


@given(st.lists(st.integers(1, 150), max_size=300), st.integers(1, 70), st.integers(0, 9))
def test_batches_of_rows_have_as_many_as_asked_and_lose_none(many: list[int], rows: int, epoch: int) -> None:
    packed = packing.batches(many, 1, 0, epoch, rows=rows)
    assert sorted(row for batch in packed for row in batch) == list(range(len(many)))
    assert sorted(map(len, packed), reverse=True)[: len(many) // rows] == [rows] * (len(many) // rows)


def test_accumulated_batches_give_the_gradient_of_one_batch(base: Path, tmp_path: Path) -> None:
    """The same rows a step, in one batch of 12 or in three of 4."""
    one, three = Task(base), Task(base)
    rows = [list(range(start, start + 12)) for start in range(0, 84, 12)]
    thirds = [batch[i : i + 4] for batch in rows for i in (0, 4, 8)]
    curves = []
    for task, batches, times in ((one, rows, 1), (three, thirds, 3)):
        settings = with_(accumulation=times, precision="fp32")
        plan = packing.Plan(batches, len(batches[0]), len(batches))
        (scratch := tmp_path / str(times)).mkdir()
        seen = list(fit(task.network, task.examples, classify.losses, settings, scratch, plan=plan))
        curves.append([number for p in seen for number in (p.loss, p.gradient)])
    assert len(curves[0]) == 14
    assert curves[0] == pytest.approx(curves[1], abs=1e-5)


def walk(settings: FitSettings, steps: int) -> tuple[nn.Parameter, list[float], Average]:
    """A number that is 1, 2, 3, ... after each step, and its average."""
    weight = nn.Parameter(torch.zeros(1))
    average = Average({"weight": weight}, settings, steps)
    path = [float(step + 1) for step in range(steps)]
    for step, value in enumerate(path):
        weight.data.fill_(value)
        average.update(step)
    return weight, path, average


def test_an_average_of_the_last_share_is_their_mean() -> None:
    weight, path, average = walk(FitSettings(average_last=0.25), 40)
    with average.in_place():
        assert weight.item() == pytest.approx(sum(path[-10:]) / 10)
    assert weight.item() == 40.0
    average.put()
    assert weight.item() == pytest.approx(35.5)


def test_an_exponential_average_trails_by_its_memory_and_forgets_the_start() -> None:
    weight, _, average = walk(FitSettings(ema=0.9), 400)
    average.put()
    assert weight.item() == pytest.approx(400 - 9, abs=0.01)  # of a ramp: memory / (1 - memory) behind
    weight, _, average = walk(FitSettings(ema=0.999), 40)
    average.put()
    assert weight.item() > 30  # a plain one would stand at 1.8 still


def test_layers_thaw_from_the_top(base: Path) -> None:
    net = Task(base).network
    parameters = dict(net.named_parameters())
    thawing = Thawing(net, parameters, with_(unfreeze=0.6), 10)  # three groups in six steps
    warm = []
    for step in range(10):
        thawing.reach(step)
        moving = {n for n, p in parameters.items() if p.requires_grad}
        assert {"head.weight", "head.bias"} <= moving
        warm.append([any(part in name for name in moving) for part in ("layer.1.", "layer.0.", "embeddings.")])
    assert warm == [[False] * 3] * 2 + [[True, False, False]] * 2 + [[True, True, False]] * 2 + [[True] * 3] * 4


def test_a_layer_that_is_cold_does_not_move(base: Path, tmp_path: Path) -> None:
    task, before = Task(base), Task(base).network.state_dict()
    task.train(tmp_path, with_(unfreeze=1.0), steps=2)
    moved = {name for name, value in task.network.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"head.weight", "head.bias"}


def rising_after(steps: int) -> Iterator[float]:
    """A figure that is best at the look number ``steps`` and worse before and after."""
    look = 0
    while True:
        look += 1
        yield float(abs(look - steps))


def test_a_training_stops_when_patience_ends_and_keeps_the_best_weights(base: Path, tmp_path: Path) -> None:
    settings = with_(epochs=8, watch_steps=2, patience=3, held_out=0.1)
    task, best = Task(base), Task(base)
    figures = rising_after(4)
    watch = Watch(lambda: next(figures))
    seen = list(fit(task.network, task.examples, classify.losses, settings, tmp_path, watch=watch))
    assert [p.held_out for p in seen if p.held_out is not None] == [3, 2, 1, 0, 1, 2, 3]
    assert (len(seen), seen[-1].best) == (14, 0.0) and seen[-1].steps > 14
    best.train(tmp_path / "best", settings, steps=8)
    assert task.sha256() == best.sha256()


def test_of_a_figure_that_is_not_a_number_nothing_is_kept(base: Path, tmp_path: Path) -> None:
    task, last = Task(base), Task(base)
    seen = list(fit(task.network, task.examples, classify.losses, SETTINGS, tmp_path, watch=Watch(lambda: math.nan)))
    last.train(tmp_path / "last")
    assert seen[-1].best is None and task.sha256() == last.sha256()


def test_the_mean_loss_of_held_out_rows_is_that_of_each_row(base: Path) -> None:
    task = Task(base)
    settings = with_(precision="fp32", batch_tokens=64)
    with torch.no_grad():
        each = [classify.losses(task.network, task.examples, [i]).item() for i in range(len(task.examples))]
    found = watching.mean_loss(task.network, task.examples, classify.losses, settings)
    assert found == pytest.approx(sum(each) / len(each), abs=1e-6)


EVERYTHING = [
    {"ema": 0.9, "watch_steps": 2, "schedule": "cosine"},
    {"average_last": 0.7, "watch_steps": 3, "accumulation": 2, "schedule": "wsd"},
    {"unfreeze": 0.8, "batch_rows": 8, "freeze_embeddings": False},
    {"watch_steps": 2, "held_out": 0.1, "patience": 3, "epochs": 8, "learning_rate": 0.05, "schedule": "constant"},
]


@pytest.mark.parametrize("changes", EVERYTHING, ids=", ".join)
def test_whatever_the_settings_an_interrupted_training_ends_with_the_same_weights_case_47(
    base: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    settings = with_(**changes)

    def train(name: str, stop: int | None) -> tuple[str, list[float | None]]:
        task = Task(base)
        held_out = classify.examples(tiny.frame(40, seed=5), task.network, TaskOptions())
        watch = Watch(lambda: watching.mean_loss(task.network, held_out, classify.losses, settings))
        (tmp_path / name).mkdir(exist_ok=True)
        seen = []
        for progress in fit(task.network, task.examples, classify.losses, settings, tmp_path / name, watch=watch):
            seen.append(progress.held_out)
            if progress.step == stop:
                break
        return task.sha256(), seen

    whole, seen = train("whole", None)
    for stop in (4, 7, len(seen) - 1):
        train("part", stop)
    assert train("part", None)[0] == whole


def test_two_ways_to_average_and_patience_without_rows_to_watch_are_refused() -> None:
    with pytest.raises(ValidationError, match="use one of them"):
        FitSettings(ema=0.9, average_last=0.2)
    with pytest.raises(ValidationError, match="set held_out"):
        FitSettings(patience=3)
