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


def test_parity_counts_changed_answers_and_names_the_row_that_moved_most() -> None:
    before = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]], np.float32)
    after = np.array([[0.8, 0.2], [0.1, 0.9], [0.2, 0.8]], np.float32)
    report = parity.compare(["x", "y", "z"], np.array([0, 0, 1]), before, after, ["bad", "good"])
    assert report["disagreement"] == pytest.approx(1 / 3)
    assert report["worst"]["id"] == "y"
    assert report["before"]["accuracy"] == 1 and report["after"]["accuracy"] == pytest.approx(2 / 3)
    assert report["score_change"]["largest"] == pytest.approx(0.5)
