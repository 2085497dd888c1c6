"""The line that ``feilun run`` prints of each step: what it was, and what failed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import polars as pl
import pytest

import feilun.evaluate.step
import feilun.finetune.step
import feilun.serve.step  # noqa: F401 - each registers its step
from feilun.cli.run import _gist, chosen, report
from feilun.errors import StepError
from feilun.models import card
from feilun.pipeline.execute import Outcome, run_step
from feilun.pipeline.kinds import Dataset, Model, Report
from feilun.pipeline.steps import STEPS
from tests.models import tiny


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tiny.Bench]:
    made = tiny.Bench(tmp_path_factory.mktemp("lines"))
    yield made
    made.store.database.close()


def done(bench: tiny.Bench, verb: str, settings: dict[str, Any], **inputs: Any) -> Outcome:
    step = STEPS[verb]
    return run_step(bench.store, step, step.settings.model_validate(settings), inputs, name=f"{verb}.own")


@pytest.fixture(scope="module")
def examples(bench: tiny.Bench) -> Dataset:
    return bench.examples(tiny.frame().with_columns(label=pl.col("label").replace({"fair": "[fair]"})))


@pytest.fixture(scope="module")
def tuned(bench: tiny.Bench, examples: Dataset) -> Model:
    return bench.run("finetune", Model, {**tiny.QUICK, "epochs": 1}, base=bench.base(), examples=examples)


def test_a_refused_gate_says_every_check_that_failed_and_none_that_passed(
    bench: tiny.Bench, tuned: Model, examples: Dataset
) -> None:
    require = {"accuracy": 0.0, "macro_f1": 0.999, "f1:[fair]": 0.99, "log_loss": 0.01}
    refused = done(bench, "evaluate", {"require": require}, model=tuned, examples=(examples,))
    checks = {c["name"]: c["value"] for c in report(refused)["checks"]}
    failed = f"macro_f1 is {checks['macro_f1']:.3f}, at least 0.999 is required"
    assert isinstance(refused.artifact, Report)
    with pytest.raises(StepError) as caught:
        done(bench, "serve", {"name": "own", "probes": ["a film"]}, model=tuned, reports=(refused.artifact,))
    for told in (_gist(refused).replace("\\[", "["), str(caught.value)):
        assert failed in told and "accuracy is" not in told
        assert f"f1:[fair] is {checks['f1:[fair]']:.3f}, at least 0.99 is required" in told
        assert f"log_loss is {checks['log_loss']:.3f}, at most 0.01 is required" in told
    assert "refused" in str(caught.value) and refused.artifact.digest not in str(caught.value)


def test_a_figure_that_misses_by_little_is_told_with_all_its_places(bench: tiny.Bench) -> None:
    folder = bench.folder / "narrow"
    folder.mkdir()
    checks = [{"name": "accuracy", "value": 0.59991, "required": 0.6, "passed": False}]
    (folder / "report.json").write_bytes(json.dumps({"checks": checks}).encode())
    made = bench.store.add(Report, folder, parents=[], facts={"passed": False})
    assert made.missed() == ["accuracy is 0.59991, at least 0.6 is required"]


def test_without_a_gate_nothing_is_passed(bench: tiny.Bench, tuned: Model, examples: Dataset) -> None:
    assert _gist(done(bench, "evaluate", {}, model=tuned, examples=(examples,))).startswith("measured: ")
    gate = {"require": {"accuracy": 0.0}}
    assert _gist(done(bench, "evaluate", gate, model=tuned, examples=(examples,))).startswith("passed: ")


@pytest.mark.parametrize(("task", "figure"), [("regress", "pearson"), ("multilabel", "micro-F1")])
def test_the_figure_that_models_are_chosen_by_is_shown(bench: tiny.Bench, task: str, figure: str) -> None:
    truth = {
        "regress": pl.Series("score", [i % 3 / 2 for i in range(60)]),
        "multilabel": pl.Series("labels", [["a", "b"][: i % 3] for i in range(60)]),
    }[task]
    rows = bench.examples(tiny.frame(60).drop("label").with_columns(truth, domain=pl.lit("films")))
    settings = {**tiny.QUICK, "task": task, "epochs": 1}
    model = bench.run("finetune", Model, settings, base=bench.base(), examples=rows)
    measured = done(bench, "evaluate", {}, model=model, examples=(rows,))
    assert _gist(measured).startswith(f"measured: films {figure} ")
    assert chosen(report(measured))[0] == report(measured)["metrics"][0]["name"]


def test_a_training_says_what_was_trained_and_where_it_was_best(bench: tiny.Bench, examples: Dataset) -> None:
    patient = {**tiny.QUICK, "epochs": 40, "held_out": 0.2, "patience": 1, "learning_rate": 0.02, "method": "lora"}
    del patient["freeze_embeddings"]
    made = done(bench, "finetune", patient, base=bench.base(), examples=examples)
    told = dict(made.metrics)
    assert told["stopped_early"] and told["epochs_run"] < 40 and 0 < told["best_step"] < told["steps_run"]
    share = f"{100 * made.artifact.facts['trained']:.3g} %"
    line = _gist(made)
    assert line.startswith(f"lora, {share} of the weights, 144 rows, stopped after {told['epochs_run']:g} of 40 epochs")
    assert line.endswith(f"best held-out loss {told['best_held_out']:.3g} at step {told['best_step']}")
    assert _gist(done(bench, "finetune", patient, base=bench.base(), examples=examples)) == line  # reused
    assert isinstance(made.artifact, Model)
    text = card.render(bench.store, card.of(bench.store, made.artifact))
    assert f"of 40, stopped early; {told['steps_run']} steps" in text and f"at step {told['best_step']}" in text
    plain = done(bench, "finetune", {**tiny.QUICK, "epochs": 2}, base=bench.base(), examples=examples)
    assert _gist(plain).startswith("full, 100 % of the weights, 180 rows, 2 epochs, loss ")
