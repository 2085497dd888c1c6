"""Methods and architectures through the step, as a project asks for them."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import feilun.finetune.step  # noqa: F401 - registers the step
from feilun import models
from feilun.errors import SettingError
from feilun.finetune import learning
from feilun.finetune.settings import FinetuneSettings
from feilun.pipeline.execute import run_step
from feilun.pipeline.kinds import Model
from feilun.pipeline.steps import STEPS, Progress
from feilun.tasks import embed, generate
from feilun.templates import shipped
from tests.models import tiny

SETTINGS: dict[str, Any] = {"epochs": 16, "learning_rate": 1e-2, "batch_tokens": 512, "context": tiny.CONTEXT}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[tiny.Bench]:
    made = tiny.Bench(tmp_path)
    yield made
    made.store.database.close()


@pytest.mark.parametrize(
    ("given", "files", "most", "right"),
    [  # what the base knows is random: most methods, which change what it makes of it, learn but little
        ({"method": "lora", "rank": 4}, True, 0.16, 0.75),
        ({"method": "adapter", "bottleneck": 8}, True, 0.11, 0.5),
        ({"method": "prefix", "virtual_tokens": 4}, True, 0.03, 0.5),
        ({"method": "bitfit"}, False, 0.04, 0.5),
    ],
    ids=["lora", "adapter", "prefix", "bitfit"],
)
def test_few_weights_learn_the_task_and_the_model_says_how_many(
    bench: tiny.Bench, given: dict[str, Any], files: bool, most: float, right: float
) -> None:
    tuned = bench.run("finetune", Model, SETTINGS | given, base=bench.base(), examples=bench.examples())
    held_out = tiny.frame().filter(pl.col("split") == "test")
    answers = models.predict(tuned, held_out["text"].to_list())
    assert np.mean([a == b for a, b in zip(answers.labels, held_out["label"], strict=True)]) > right
    assert tuned.facts["method"] == given["method"]
    assert 0 < tuned.facts["trained"] < most
    assert (tuned.path / "adapter" / "adapter_config.json").is_file() == files


@pytest.mark.parametrize("given", [{"method": "lora", "init": "pissa"}, {"method": "prefix"}], ids=["pissa", "prefix"])
def test_interrupted_and_resumed_is_the_same_model_case_47(
    bench: tiny.Bench, tmp_path: Path, given: dict[str, Any]
) -> None:
    step = STEPS["finetune"]
    settings = FinetuneSettings.model_validate(SETTINGS | given | {"epochs": 2, "checkpoint_steps": 2})

    def stop(name: str, progress: Progress) -> None:
        if progress.done >= 5:
            raise KeyboardInterrupt

    inputs = {"base": bench.base(), "examples": bench.examples()}
    with pytest.raises(KeyboardInterrupt):
        run_step(bench.store, step, settings, inputs, name="finetune", observe=stop)
    resumed = run_step(bench.store, step, settings, inputs, name="finetune").artifact
    other = tiny.Bench(tmp_path / "other")
    inputs = {"base": other.base(), "examples": other.examples()}
    whole = run_step(other.store, step, settings, inputs, name="finetune").artifact
    other.store.database.close()
    assert resumed.digest == whole.digest


def test_a_method_that_has_nothing_to_train_is_refused(bench: tiny.Bench) -> None:
    settings = FinetuneSettings.model_validate({"method": "head", "context": tiny.CONTEXT, "task": "embed"})
    with pytest.raises(SettingError, match="trains nothing"):
        learning.begin(bench.base(), embed, [], settings)


def test_a_recurrent_network_writes_no_texts(bench: tiny.Bench) -> None:
    settings = FinetuneSettings.model_validate({"architecture": "lstm", "task": "generate"})
    with pytest.raises(SettingError, match="writes none"):
        learning.begin(bench.base(), generate, [], settings)


@pytest.mark.parametrize("recipe", sorted((shipped("recipes") / "finetune").iterdir()), ids=lambda file: file.stem)
def test_every_recipe_that_we_ship_is_valid(recipe: Path) -> None:
    FinetuneSettings.model_validate(tomllib.loads(recipe.read_text("utf-8")))


def test_learned_tokens_take_room_from_the_text(bench: tiny.Bench) -> None:
    settings = {"method": "prompt", "virtual_tokens": 30}
    with pytest.raises(SettingError, match="use context = 34 or less"):
        bench.run("finetune", Model, SETTINGS | settings, base=bench.base(), examples=bench.examples())
