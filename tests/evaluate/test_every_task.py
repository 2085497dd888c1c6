"""evaluate's step asks models of the tasks of two texts, of places and of words, with all that a report can hold."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import polars as pl
import pytest

import feilun.evaluate.step
import feilun.finetune.step  # noqa: F401 - registers the step
from feilun.evaluate import robustness
from feilun.evaluate.settings import SHARES
from feilun.pipeline.kinds import Model, Report
from feilun.tasks import generate
from tests.models import tiny, tiny_causal

ANSWERS = pl.List(pl.Struct({"start": pl.Int64, "text": pl.String}))
WORDS = ("generate", "prefer")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tiny.Bench]:
    made = tiny.Bench(tmp_path_factory.mktemp("every"))
    yield made
    made.store.database.close()


def rows(task: str) -> pl.DataFrame:
    """The tiny examples with the truth of another task."""
    if task in WORDS:
        told = tiny_causal.frame(held_out=6) if task == "generate" else tiny_causal.preferences()
        number = pl.int_range(pl.len())
        return told.with_columns(
            split=pl.when(number < 6).then(pl.lit("test")).otherwise(pl.lit("train")),
            domain=pl.when(number % 3 == 0).then(pl.lit("books")).otherwise(pl.lit("films")),
        )
    frame = tiny.frame(80)
    first = [text.split()[0] for text in frame["text"]]
    both = frame.with_columns(other=pl.Series([f"{word} film" for word in first]))
    if task == "pair":
        return both
    if task == "similarity":
        return both.with_columns(score=pl.Series([float(i % 5) for i in range(80)])).drop("label")
    if task == "extract":
        places = [[{"start": 0, "text": word}] if i % 3 else [] for i, word in enumerate(first)]
        return frame.with_columns(
            other="text", text=pl.lit("the film was a story"), answers=pl.Series(places, dtype=ANSWERS)
        ).drop("label")
    return both.drop("label")


def tuned(bench: tiny.Bench, task: str, **changes: Any) -> Model:
    words = bench.model(tiny_causal.write_base(bench.folder / "words"), format="safetensors")
    base = words if task in WORDS else bench.base()
    settings = {"task": task, "epochs": 1, "batch_tokens": 512, "context": tiny.CONTEXT, **changes}
    if task in WORDS:
        settings |= {"context": tiny_causal.CONTEXT, "answer_tokens": 4}
    return bench.run("finetune", Model, settings, base=base, examples=bench.examples(rows(task)))


@pytest.mark.parametrize("task", ["extract", "pair", "similarity", "embed", "rank", "generate", "prefer"])
def test_a_report_holds_every_part_of_it_whatever_the_task(bench: tiny.Bench, task: str) -> None:
    examples = bench.examples(rows(task))
    model, other = tuned(bench, task), tuned(bench, task, seed=1)
    first = json.loads(
        (bench.run("evaluate", Report, model=model, examples=(examples,)).path / "report.json").read_bytes()
    )["metrics"][0]["name"]
    least, most = (0, 1) if first in SHARES else (-1e9, 1e9)
    made = bench.run(
        "evaluate",
        Report,
        {"require": {first: least, f"films.{first}": most}, "robustness": True, "efficiency": True, "resamples": 200},
        model=model,
        examples=(examples,),
        against=other,
        seeds=(other,),
        outside=examples,
    )
    said = json.loads((made.path / "report.json").read_bytes())
    held_out = rows(task).filter(pl.col("split") == "test")
    assert (said["task"], said["all"]["n"]) == (task, held_out.height)
    assert {k: v["n"] for k, v in said["domains"].items()} == dict(held_out["domain"].value_counts().rows())
    for figures in (said["all"], *said["domains"].values()):
        assert all(
            f["low"] <= f["value"] <= f["high"] for f in figures.values() if isinstance(f, dict) and "value" in f
        )
    assert [c["name"] for c in said["checks"]] == [first, f"films.{first}"] and said["checks"][0]["passed"]
    for m in said["metrics"]:
        assert m["name"] in said["against"]["metrics"] and m["name"] in said["seeds"]["metrics"]
    assert said["efficiency"]["rows_s"] > 0
    told = {r["change"]: r for r in said["robustness"]}
    assert told["upper case"]["changed_texts"] == 1
    page = (made.path / "report.html").read_text("utf-8")
    assert f"task {task}" in page and "Against another model" in page and "Other seeds" in page


def test_of_a_conversation_what_the_user_said_last_is_worse_written_and_nothing_else() -> None:
    told = tiny_causal.frame([tiny_causal.ask("a", "xy", "yz"), tiny_causal.ask("b", "zz")])
    assert robustness._given(told) == ["more", "b"]
    changed = robustness._reworded(told, ["MORE", "B"])
    before, after = generate.asked(told), generate.asked(changed)
    assert [row[-1]["content"] for row in after] == ["MORE", "B"]
    assert [row[:-1] for row in after] == [row[:-1] for row in before]
    assert [m[-1] for m in changed["messages"].to_list()] == [m[-1] for m in told["messages"].to_list()]
