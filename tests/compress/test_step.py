from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

import feilun.compress.step
import feilun.finetune.step  # noqa: F401 - registers the step
from feilun import models
from feilun.compress import parity
from feilun.errors import DataError, StepError
from feilun.models import network
from feilun.pipeline.kinds import Dataset, Model
from feilun.tasks import metrics
from feilun.tasks.task import Answered
from tests.models import tiny


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tiny.Bench]:
    made = tiny.Bench(tmp_path_factory.mktemp("compress"))
    yield made
    made.store.database.close()


@pytest.fixture(scope="module")
def examples(bench: tiny.Bench) -> Dataset:
    return bench.examples()


@pytest.fixture(scope="module")
def tuned(bench: tiny.Bench, examples: Dataset) -> Model:
    return bench.run("finetune", Model, tiny.QUICK, base=bench.base(), examples=examples)


def found(made: Model) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((made.path / "parity.json").read_bytes())
    return report


@pytest.mark.parametrize(("quantise", "tolerance"), [("none", 1e-4), ("int8", 0.1), ("int8-static", 0.25)])
def test_the_exported_model_answers_as_the_trained_one(
    bench: tiny.Bench, examples: Dataset, tuned: Model, quantise: str, tolerance: float
) -> None:
    made = bench.run("compress", Model, {"quantise": quantise}, model=tuned, examples=examples)
    texts = tiny.frame(100, seed=9)["text"].to_list()
    before, after = models.predict(tuned, texts), models.predict(made, texts)
    np.testing.assert_allclose(after.scores, before.scores, atol=tolerance)
    assert np.mean([a == b for a, b in zip(before.labels, after.labels, strict=True)]) >= 0.97
    assert {k: made.facts[k] for k in ("format", "labels", "context")} == {
        "format": "openvino", "labels": ["bad", "fair", "good"], "context": tiny.CONTEXT,
    }  # fmt: skip


def test_eight_bits_are_a_quarter_of_the_size(bench: tiny.Bench, examples: Dataset, tuned: Model) -> None:
    small = bench.run("compress", Model, {"quantise": "int8"}, model=tuned, examples=examples)
    large = bench.run("compress", Model, {"quantise": "none"}, model=tuned, examples=examples)
    weigh = [(m.path / "model.bin").stat().st_size for m in (small, large)]
    assert weigh[0] < 0.35 * weigh[1]
    report = found(small)
    assert report["n"] == tiny.frame().filter(pl.col("split") == "test").height
    assert report["bytes"]["after"] > weigh[0] and report["worst"]["id"].startswith("row-")


def test_more_disagreement_than_allowed_is_refused(
    bench: tiny.Bench, examples: Dataset, tuned: Model, tmp_path: Path
) -> None:
    """Two labels whose weights differ by less than 8 bits can hold: their answers must change."""
    close = network.load(tuned.path)
    noise = torch.randn(32, generator=torch.Generator().manual_seed(0))
    close.head.weight.data[1:] = torch.stack([close.head.weight[0] + 1e-3 * noise, close.head.weight[0] - 1e-3 * noise])
    close.head.bias.data.zero_()
    network.save(close, tmp_path)
    model = bench.model(tmp_path, **tuned.facts)
    with pytest.raises(StepError, match="limit of 3"):
        bench.run("compress", Model, model=model, examples=examples)
    made = bench.run("compress", Model, {"max_disagreement": 1.0}, model=model, examples=examples)
    assert found(made)["disagreement"] > 0.03


def test_compressing_twice_gives_the_same_artefact_and_says_nothing(
    bench: tiny.Bench, examples: Dataset, tuned: Model, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    other = tiny.Bench(tmp_path)
    rows = other.examples()
    model = other.run("finetune", Model, tiny.QUICK, base=other.base(), examples=rows)
    capfd.readouterr()
    again = other.run("compress", Model, model=model, examples=rows)
    assert capfd.readouterr() == ("", "")
    other.store.database.close()
    assert again.digest == bench.run("compress", Model, model=tuned, examples=examples).digest


def test_only_a_tuned_model_can_be_compressed(bench: tiny.Bench, examples: Dataset, tuned: Model) -> None:
    made = bench.run("compress", Model, model=tuned, examples=examples)
    with pytest.raises(StepError, match="takes what finetune makes"):
        bench.run("compress", Model, model=made, examples=examples)


@pytest.mark.parametrize(("quantise", "split", "needed"), [("int8", "train", "test"), ("int8-static", "test", "train")])
def test_the_split_that_is_needed_is_named(
    bench: tiny.Bench, tuned: Model, quantise: str, split: str, needed: str
) -> None:
    rows = tiny.frame().with_columns(split=pl.lit(split))
    with pytest.raises(DataError, match=f"'{needed}'"):
        bench.run("compress", Model, {"quantise": quantise}, model=tuned, examples=bench.examples(rows))


def answered(*said: dict[str, Any]) -> Answered:
    return Answered(list(said), None)


def label(good: float) -> dict[str, Any]:
    best = "good" if good >= 0.5 else "bad"
    return {"label": best, "score": max(good, 1 - good), "scores": {"bad": 1 - good, "good": good}}


def test_parity_counts_changed_answers_and_names_the_row_that_moved_most() -> None:
    before, after = (answered(*map(label, row)) for row in ((0.1, 0.4, 0.8), (0.2, 0.9, 0.8)))
    figures = [metrics.mean("accuracy", [1, 1, 1])], [metrics.mean("accuracy", [1, 0, 1])]
    report = parity.compare(["x", "y", "z"], before, after, figures)
    assert report["disagreement"] == pytest.approx(1 / 3)
    assert report["worst"]["id"] == "y" and report["worst"]["after"]["label"] == "good"
    assert report["before"]["accuracy"] == 1 and report["after"]["accuracy"] == pytest.approx(2 / 3)
    assert report["score_change"]["largest"] == pytest.approx(0.5)


def span(start: int, score: float, name: str = "film") -> dict[str, Any]:
    return {"start": start, "end": start + 4, "label": name, "score": score, "text": "film"}


@pytest.mark.parametrize(
    ("before", "after", "share"),
    [
        # of 2 + 1 spans and 2 + 1 afterwards, two are the same
        ([{"spans": [span(0, 0.9), span(9, 0.6)]}, {"spans": [span(3, 0.8)]}],
         [{"spans": [span(0, 0.7), span(9, 0.6)]}, {"spans": [span(3, 0.8, "place")]}], 1 / 3),
        ([{"spans": []}, {"spans": []}], [{"spans": []}, {"spans": []}], 0.0),
        ([{"spans": []}, {"spans": []}], [{"spans": [span(0, 0.5)]}, {"spans": []}], 1.0),
        # any of the labels: three and two, of which two are the same
        ([{"labels": ["a", "b", "c"], "scores": {"a": 0.9}}], [{"labels": ["b", "a"], "scores": {"a": 0.8}}], 1 / 5),
        # an answer is changed by its place alone, and by being given or not
        ([{"answer": "film", "start": 3, "score": 0.9}] * 2,
         [{"answer": "film", "start": 9, "score": 0.9}, {"answer": "", "start": None, "score": 0.2}], 1.0),
        # of a ranking, who is first
        ([{"ranking": [{"text": "a", "score": 2.0}, {"text": "b", "score": 1.0}, {"text": "c", "score": 0.0}]}] * 2,
         [{"ranking": [{"text": "a", "score": 2.0}, {"text": "c", "score": 0.5}, {"text": "b", "score": 0.4}]},
          {"ranking": [{"text": "b", "score": 2.0}, {"text": "a", "score": 1.9}, {"text": "c", "score": 0.4}]}], 0.5),
        # only numbers: their squared change against their variance
        ([{"score": 1.0}, {"score": 3.0}], [{"score": 1.5}, {"score": 3.0}], 0.125),
        ([{"vector": [1.0, 0.0]}, {"vector": [0.0, 1.0]}], [{"vector": [1.0, 0.0]}, {"vector": [0.0, 1.0]}], 0.0),
    ],
    ids=["spans", "no spans", "a first span", "labels", "answers", "rankings", "numbers", "vectors"],
)  # fmt: skip
def test_disagreement_is_what_was_decided_otherwise(
    before: list[dict[str, Any]], after: list[dict[str, Any]], share: float
) -> None:
    assert parity.disagreement(answered(*before), answered(*after)) == pytest.approx(share)


def test_a_span_that_is_no_longer_said_has_moved_by_its_whole_score() -> None:
    before, after = answered({"spans": [span(0, 0.9), span(9, 0.6)]}), answered({"spans": [span(0, 0.8)]})
    report = parity.compare(["x"], before, after, ([], []))
    assert report["score_change"]["largest"] == pytest.approx(0.6)


def test_a_figure_that_says_nothing_is_null_in_the_report() -> None:
    empty = [metrics.Metric("f1", np.zeros((1, 1)), lambda sums: sums[..., 0] / np.float64("nan"))]
    said = answered(label(0.3))
    assert parity.compare(["x"], said, said, (empty, empty))["before"] == {"f1": None}
