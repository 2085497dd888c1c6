from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

import feilun.finetune.step  # noqa: F401 - registers the step
from feilun import models
from feilun.errors import ArtifactError, DataError, SettingError, StepError
from feilun.finetune.settings import FinetuneSettings
from feilun.pipeline.execute import run_step
from feilun.pipeline.kinds import Model
from feilun.pipeline.steps import STEPS, Progress
from tests.models import tiny


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[tiny.Bench]:
    made = tiny.Bench(tmp_path)
    yield made
    made.store.database.close()


def test_a_tuned_model_knows_what_it_was_taught(bench: tiny.Bench) -> None:
    tuned = bench.run("finetune", Model, tiny.QUICK, base=bench.base(), examples=bench.examples())
    held_out = tiny.frame().filter(pl.col("split") == "test")
    answers = models.predict(tuned, held_out["text"].to_list())
    assert np.mean([a == b for a, b in zip(answers.labels, held_out["label"], strict=True)]) > 0.8
    facts = {"format": "safetensors", "task": "classify", "labels": ["bad", "fair", "good"], "context": 40, "rows": 180}
    assert tuned.facts == facts | {"method": "full", "trained": 1.0}
    assert {f.name for f in tuned.path.iterdir()} == {
        "README.md", "config.json", "head.safetensors", "manifest.json", "model.safetensors", "tokenizer.json",
    }  # fmt: skip


def test_held_out_rows_are_not_learned_from(bench: tiny.Bench) -> None:
    rows = tiny.frame()
    swapped = pl.when(pl.col("split") == "test").then(pl.lit("bad")).otherwise(pl.col("label"))
    base = bench.base()
    first = bench.run("finetune", Model, tiny.QUICK, base=base, examples=bench.examples(rows))
    second = bench.run(
        "finetune", Model, tiny.QUICK, base=base, examples=bench.examples(rows.with_columns(label=swapped))
    )
    for name in ("model.safetensors", "head.safetensors"):
        assert (first.path / name).read_bytes() == (second.path / name).read_bytes()


def test_a_tuned_base_is_a_warm_start_and_learns_new_labels(bench: tiny.Bench) -> None:
    two = tiny.frame(labels=["bad", "good"])
    first = bench.run("finetune", Model, tiny.QUICK, base=bench.base(), examples=bench.examples(two))
    gentle = {**tiny.QUICK, "epochs": 1, "learning_rate": 1e-6}
    second = bench.run("finetune", Model, gentle, base=first, examples=bench.examples(two))
    texts = two["text"].to_list()
    assert models.predict(second, texts).labels == models.predict(first, texts).labels
    third = bench.run(
        "finetune", Model, tiny.QUICK, base=first, examples=bench.examples(tiny.frame(labels=["bad", "fair"]))
    )
    assert third.facts["labels"] == ["bad", "fair", "good"]


def test_an_interrupted_training_is_resumed_and_gives_the_same_model(bench: tiny.Bench, tmp_path: Path) -> None:
    """RELIABILITY 47, through the step."""
    base, examples = bench.base(), bench.examples()
    step, settings = STEPS["finetune"], FinetuneSettings.model_validate({**tiny.QUICK, "checkpoint_steps": 4})
    first: list[float] = []

    def stop(name: str, progress: Progress) -> None:
        first.append(progress.done)
        if progress.done >= 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_step(bench.store, step, settings, {"base": base, "examples": examples}, name="finetune", observe=stop)
    resumed = run_step(bench.store, step, settings, {"base": base, "examples": examples}, name="finetune").artifact
    other = tiny.Bench(tmp_path / "other")
    whole = run_step(
        other.store, step, settings, {"base": other.base(), "examples": other.examples()}, name="finetune"
    ).artifact
    other.store.database.close()
    assert first and resumed.digest == whole.digest


def test_one_label_is_refused(bench: tiny.Bench) -> None:
    """RELIABILITY 44."""
    with pytest.raises(DataError, match="at least two labels"):
        bench.run("finetune", Model, base=bench.base(), examples=bench.examples(tiny.frame(labels=["good"])))


def test_a_label_of_test_rows_alone_is_refused_before_anything_is_learned(bench: tiny.Bench) -> None:
    """RELIABILITY 44: the dataset, the row and the column are named; a base that knows the label may keep it."""
    rows = tiny.frame()
    strange = pl.when(pl.col("id") == "row-0007").then(pl.lit("safety")).otherwise(pl.col("label"))
    examples, base = bench.examples(rows.with_columns(label=strange)), bench.base()
    with pytest.raises(DataError, match="'safety'") as caught:
        bench.run("finetune", Model, tiny.QUICK, base=base, examples=examples)
    assert caught.value.where == f"dataset {examples.short}, split test, row row-0007, column label"
    taught = bench.examples(rows.with_columns(label=pl.col("label").replace({"fair": "safety"})))
    quick = {**tiny.QUICK, "epochs": 1}
    knows = bench.run("finetune", Model, quick, base=base, examples=taught)
    assert "safety" in bench.run("finetune", Model, quick, base=knows, examples=examples).facts["labels"]


def test_a_threshold_that_could_not_be_chosen_is_refused_when_the_project_is_read() -> None:
    with pytest.raises(ValidationError, match="set held_out"):
        FinetuneSettings(task="classify", threshold=0)
    with pytest.raises(ValidationError, match="'threshold' has no effect with method = 'few-shot'"):
        FinetuneSettings(task="classify", threshold=0, method="few-shot")
    FinetuneSettings(task="classify", threshold=0, held_out=0.1)


def test_a_context_beyond_the_base_is_refused(bench: tiny.Bench) -> None:
    with pytest.raises(SettingError, match="use context = 64 or less"):
        bench.run("finetune", Model, {"context": 65}, base=bench.base(), examples=bench.examples())


def test_a_rate_that_blows_up_stops_and_leaves_no_model(bench: tiny.Bench) -> None:
    """RELIABILITY 46: nothing that is not finite can be promoted, for there is no artefact."""
    wild = {**tiny.QUICK, "learning_rate": 0.99, "epochs": 400, "clip": 1e38, "weight_decay": 1e30}
    with pytest.raises(StepError, match="lower learning_rate"):
        bench.run("finetune", Model, wild, base=bench.base(), examples=bench.examples())


def test_an_openvino_model_is_not_a_base(bench: tiny.Bench, tmp_path: Path) -> None:
    folder = tmp_path / "exported"
    folder.mkdir()
    for name, content in {"config.json": json.dumps({}), "model.xml": "<net/>", "model.bin": ""}.items():
        (folder / name).write_text(content)
    with pytest.raises(ArtifactError):
        bench.run("finetune", Model, base=bench.model(folder, format="openvino"), examples=bench.examples())


def test_a_mistyped_task_is_found_when_the_project_is_read() -> None:
    with pytest.raises(ValidationError, match="did you mean 'classify'"):
        FinetuneSettings(task="clasify")
