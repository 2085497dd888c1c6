"""evaluate asks models of any task: figures, gate, domains and page come from the task's own metrics."""

from __future__ import annotations

import json
from collections.abc import Iterator

import polars as pl
import pytest

import feilun.evaluate.step
import feilun.finetune.step  # noqa: F401 - registers the step
from feilun.errors import DataError
from feilun.evaluate.settings import SHARES
from feilun.pipeline.kinds import Model, Report
from tests.models import tiny

QUICK = {**tiny.QUICK, "epochs": 2}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tiny.Bench]:
    made = tiny.Bench(tmp_path_factory.mktemp("tasks"))
    yield made
    made.store.database.close()


def spans(text: str) -> list[dict[str, object]]:
    """Where a word of judgement stands."""
    word = next(w for w in text.split() if any(w in words for words in tiny.SAYS.values()))
    start = f" {text} ".index(f" {word} ")
    return [{"start": start, "end": start + len(word), "label": "SAID"}]


def rows(task: str) -> pl.DataFrame:
    """The tiny examples with the truth of another task."""
    frame = tiny.frame(120)
    truths = {
        "regress": pl.Series("score", [float(sorted(tiny.SAYS).index(x)) for x in frame["label"]]),
        "multilabel": pl.Series("labels", [[x] for x in frame["label"]]),
        "tag": pl.Series("spans", [spans(text) for text in frame["text"]]),
    }
    return frame.drop("label").with_columns(truths[task])


@pytest.mark.parametrize("task", ["regress", "multilabel", "tag"])
def test_a_model_of_any_task_is_measured_gated_and_shown(bench: tiny.Bench, task: str) -> None:
    examples = bench.examples(rows(task))
    model = bench.run("finetune", Model, {**QUICK, "task": task}, base=bench.base(), examples=examples)
    first = json.loads(
        (bench.run("evaluate", Report, model=model, examples=(examples,)).path / "report.json").read_bytes()
    )["metrics"][0]["name"]
    least, most = (0, 1) if first in SHARES else (-1e9, 1e9)
    require = {first: least, f"films.{first}": most}
    made = bench.run(
        "evaluate", Report, {"require": require, "robustness": True}, model=model, examples=(examples,), seeds=(model,)
    )
    said = json.loads((made.path / "report.json").read_bytes())
    assert said["task"] == task and said["all"]["n"] == 30
    assert sorted(c["passed"] for c in said["checks"]) == [False, True] and made.facts["passed"] is False
    for figures in (said["all"], *said["domains"].values()):
        if first in figures:  # scores that are all the same, as those of books, correlate with nothing
            assert figures[first]["low"] <= figures[first]["value"] <= figures[first]["high"]
    assert made.facts[first] == said["all"][first]["value"]
    assert said["seeds"]["metrics"][first]["deviation"] == 0
    assert {r["change"] for r in said["robustness"]} >= {"upper case"}
    if task == "tag":  # places in the text must stay where they are
        assert "the first half only" not in {r["change"] for r in said["robustness"]}
    text = (made.path / "report.html").read_text("utf-8")
    assert f"task {task}" in text and "missed" in text


def test_rows_without_the_truth_of_the_task_are_refused(bench: tiny.Bench) -> None:
    examples = bench.examples(rows("regress"))
    settings = {**QUICK, "epochs": 1, "task": "regress"}
    model = bench.run("finetune", Model, settings, base=bench.base(), examples=examples)
    with pytest.raises(DataError, match="no column 'score'"):
        bench.run("evaluate", Report, model=model, examples=(bench.examples(),))
