from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

import feilun.finetune.step  # noqa: F401 - registers the step
from feilun import models
from feilun.errors import SettingError
from feilun.finetune.settings import FinetuneSettings
from feilun.pipeline.execute import run_step
from feilun.pipeline.kinds import Model
from feilun.pipeline.steps import STEPS, Progress
from tests.models import tiny

FEW = {
    "method": "few-shot",
    "draws": 30,
    "learning_rate": 5e-3,
    "batch_tokens": 512,
    "context": tiny.CONTEXT,
    "freeze_embeddings": False,
}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[tiny.Bench]:
    made = tiny.Bench(tmp_path)
    yield made
    made.store.database.close()


def test_a_model_of_few_examples_answers_like_any_other(bench: tiny.Bench) -> None:
    tuned = bench.run("finetune", Model, FEW, base=bench.base(), examples=bench.examples(tiny.frame(128)))
    held_out = tiny.frame(240, seed=5)
    answers = models.predict(tuned, held_out["text"].to_list())
    assert np.mean([a == b for a, b in zip(answers.labels, held_out["label"], strict=True)]) > 0.7
    assert tuned.facts["method"] == "few-shot" and tuned.facts["labels"] == ["bad", "fair", "good"]


def test_an_interrupted_few_shot_training_is_resumed_and_gives_the_same_model(
    bench: tiny.Bench, tmp_path: Path
) -> None:
    """RELIABILITY 47."""
    rows = tiny.frame(64)
    settings = FinetuneSettings.model_validate({**FEW, "draws": 10, "checkpoint_steps": 3})
    inputs = {"base": bench.base(), "examples": bench.examples(rows)}

    def stop(name: str, progress: Progress) -> None:
        if progress.done >= 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_step(bench.store, STEPS["finetune"], settings, inputs, name="finetune", observe=stop)
    resumed = run_step(bench.store, STEPS["finetune"], settings, inputs, name="finetune").artifact
    other = tiny.Bench(tmp_path / "other")
    inputs = {"base": other.base(), "examples": other.examples(rows)}
    whole = run_step(other.store, STEPS["finetune"], settings, inputs, name="finetune").artifact
    other.store.database.close()
    assert resumed.digest == whole.digest


def test_texts_with_several_labels_are_refused(bench: tiny.Bench) -> None:
    rows = tiny.frame(48)
    several = rows.with_columns(labels=pl.concat_list("label")).drop("label")
    with pytest.raises(SettingError, match="exactly one label"):
        bench.run("finetune", Model, FEW, base=bench.base(), examples=bench.examples(several))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"task": "regress"}, "is for task = 'classify'"),
        ({"held_out": 0.2}, "'held_out' has no effect"),
        ({"label_smoothing": 0.1}, "'label_smoothing' has no effect"),
        ({"rank": 4}, "'rank' has no effect"),
    ],
)
def test_settings_without_effect_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        FinetuneSettings.model_validate({"method": "few-shot", **settings})


def test_draws_are_few_shots_alone() -> None:
    with pytest.raises(ValidationError, match="it is for few-shot"):
        FinetuneSettings(draws=3)
