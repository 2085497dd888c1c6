from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from feilun import datasets
from feilun.errors import SettingError
from feilun.pipeline.kinds import Dataset
from feilun.pipeline.steps import Progress
from feilun.trials.validate import interval, validate
from tests.models import tiny
from tests.trials.test_search import subject


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[tiny.Bench]:
    made = tiny.Bench(tmp_path)
    yield made
    made.store.database.close()


def test_each_fold_is_answered_by_a_model_that_did_not_learn_from_it_and_all_of_it_is_reused(
    bench: tiny.Bench, tmp_path: Path
) -> None:
    films = subject(tmp_path, bench, epochs=10)
    seen = 0

    def stop(name: str, progress: Progress) -> None:
        nonlocal seen
        seen += "fold 2 of 3" in name
        if seen == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        validate(replace(films, observe=stop), folds=3)
    found = validate(films, folds=3)
    assert [f.reused for f in found.folds] == [True, False, False]
    assert sum(f.held_out for f in found.folds) == 120 and all(f.learned + f.held_out == 120 for f in found.folds)
    told = found.metrics["accuracy"]
    values = [f.figures["accuracy"] for f in found.folds]
    assert told["mean"] == pytest.approx(np.mean(values)) and told["mean"] > 0.5
    assert told["low"] < min(values) and told["high"] > max(values) and told["higher_is_better"]
    assert not found.metrics["log_loss"]["higher_is_better"]
    for fold in found.folds:
        (data,) = (a for a in map(bench.store.get, bench.store.get(fold.model).parents) if isinstance(a, Dataset))
        assert datasets.read(data, "train").height == fold.learned
        assert datasets.read(data)["id"].is_in(datasets.read(films.examples, "train")["id"].implode()).all()
    again = validate(films, folds=3)
    assert all(f.reused for f in again.folds) and again.metrics == found.metrics


def test_by_domain_a_model_answers_for_a_domain_that_it_has_never_seen(bench: tiny.Bench, tmp_path: Path) -> None:
    place = pl.when(pl.int_range(160) % 5 == 0).then(pl.lit("books")).otherwise(pl.lit("films"))
    examples = bench.examples(tiny.frame(160).with_columns(domain=place))
    films = subject(tmp_path, bench, epochs=1)
    found = validate(replace(films, inputs={**films.inputs, "examples": examples}), folds=2, by="domain")
    rows = datasets.read(examples, "train").group_by("domain").agg(pl.len())
    assert sorted(f.held_out for f in found.folds) == sorted(rows["len"])


def test_what_cannot_be_divided_is_refused_before_a_training(bench: tiny.Bench, tmp_path: Path) -> None:
    films = subject(tmp_path, bench)
    with pytest.raises(SettingError, match="need as many domains, and the training rows have 2"):
        validate(films, folds=3, by="domain")
    with pytest.raises(SettingError, match="from 2 to 100"):
        validate(films, folds=1)
    assert films.outcomes == []


def test_the_interval_of_a_mean_of_folds_holds_what_it_should() -> None:
    """Models that share rows: figures whose common part does not show in their spread; 95 of 100 intervals hold it."""
    random = np.random.default_rng(0)
    k, ratio, inside = 5, 0.25, 0
    for _ in range(2000):
        shared = random.normal(0, np.sqrt(ratio))  # the variance that Nadeau and Bengio estimate: s^2 held out/learned
        told = interval(list(0.8 + 0.05 * (shared + random.normal(0, 1, k))), ratio)
        inside += told["low"] <= 0.8 <= told["high"]
    assert 0.935 <= inside / 2000 <= 0.965
