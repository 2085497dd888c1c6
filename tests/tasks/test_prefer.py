from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

import feilun.finetune.step  # noqa: F401 - registers the step
from feilun import tasks
from feilun.errors import DataError
from feilun.models import causal, decoding
from feilun.pipeline.kinds import Model
from feilun.tasks import metrics_known, prefer
from feilun.tasks.options import TaskOptions
from feilun.tasks.task import Answered
from tests.models import tiny, tiny_causal


@pytest.fixture
def model(tmp_path: Path) -> causal.Causal:
    return tiny_causal.load(tmp_path / "model")


def logs(model: causal.Causal, made: prefer.Examples) -> torch.Tensor:
    """The log-probability of each answer, one row at a time."""
    return torch.stack([-model.surprise([r], [c])[0].sum() for r, c in zip(made.rows, made.counts, strict=True)])


def test_dpo_starts_at_ln_2_whatever_the_pairs_and_is_then_what_its_paper_says(model: causal.Causal) -> None:
    made = prefer.examples(tiny_causal.preferences(), model, TaskOptions(beta=0.3))
    with torch.no_grad():
        torch.testing.assert_close(prefer.losses(model, made, [2, 0, 3]), torch.full((3,), math.log(2)))
        before = logs(model, made).view(-1, 2)
        for parameter in model.encoder.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        gained = logs(model, made).view(-1, 2) - before
        wanted = -torch.nn.functional.logsigmoid(0.3 * (gained[:, 0] - gained[:, 1]))
        torch.testing.assert_close(prefer.losses(model, made, [0, 1, 2, 3]), wanted[:4], atol=1e-5, rtol=1e-4)


def test_orpo_is_what_its_paper_says(model: causal.Causal) -> None:
    made = prefer.examples(tiny_causal.preferences(), model, TaskOptions(beta=0.3, preference="orpo"))
    with torch.no_grad():
        mean = (logs(model, made) / torch.tensor([float(sum(c)) for c in made.counts])).view(-1, 2)
        odds = torch.log(mean.exp() / (1 - mean.exp()))
        wanted = -mean[:, 0] - 0.3 * torch.log(torch.sigmoid(odds[:, 0] - odds[:, 1]))
        torch.testing.assert_close(prefer.losses(model, made, [1, 2]), wanted[[1, 2]], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("told", [{}, {"preference": "orpo"}, {"method": "lora"}], ids=["dpo", "orpo", "dpo with lora"])
def test_the_better_answers_become_the_likelier_ones(tmp_path: Path, told: dict[str, Any]) -> None:
    bench = tiny.Bench(tmp_path)
    base = bench.model(tiny_causal.write_base(tmp_path / "base"), format="safetensors")
    rows = tiny_causal.preferences()
    quick = {
        "task": "prefer",
        "epochs": 15,
        "learning_rate": 1e-2,
        "batch_tokens": 256,
        "context": 64,
        "answer_tokens": 4,
    }
    tuned = bench.run("finetune", Model, quick | told, base=base, examples=bench.examples(rows))
    figures = {m.name: float(m.value(m.rows.sum(0))) for m in prefer.measure(rows, tasks.ask(tuned, rows.head(2)), ())}
    assert tuple(figures) == metrics_known.BY_TASK["prefer"]
    assert figures["preferred"] == figures["preferred_whole"] == 1 and figures["margin"] > 0.5
    bench.store.database.close()


def test_a_pair_counts_the_tokens_of_both_and_too_long_ones_are_refused(model: causal.Causal) -> None:
    rows = tiny_causal.preferences()
    made = prefer.examples(rows, model, TaskOptions())
    assert len(made) == len(rows) and made.lengths[0] == len(made.rows[0]) + len(made.rows[1])
    model.context = 20
    with pytest.raises(DataError, match="longer than the context of 20"):
        prefer.examples(rows, model, TaskOptions())


def test_pairs_of_which_one_is_longer_than_the_model_can_read_are_left_out_and_counted(model: causal.Causal) -> None:
    rows = tiny_causal.preferences().head(4)
    longer = rows.with_columns(rejected=pl.Series(["zzzz" * 200, *rows["rejected"][1:]]))
    answered = Answered([], decoding.Writing(model))
    all_of, most_of = ({m.name: m for m in prefer.measure(told, answered, ())} for told in (rows, longer))
    assert (all_of["left_out"].figure, most_of["left_out"].figure) == (0, 0.25)
    for name in ("preferred", "preferred_whole", "margin"):
        assert most_of[name].figure == all_of[name].of(np.array([1, 2, 3])).figure
        assert math.isnan(most_of[name].of(np.array([0])).figure)
