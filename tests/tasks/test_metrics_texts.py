"""Figures of numbers, of several labels and of retrieval are those of scikit-learn, scipy, or of a plain count."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from feilun.errors import DataError
from feilun.tasks import metrics_multilabel, metrics_numbers, metrics_retrieval
from feilun.tasks.metrics import Metric

seeds = st.integers(0, 10**6)


def figures(found: list[Metric]) -> dict[str, float]:
    return {one.name: one.figure for one in found}


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(3, 60), st.sampled_from([1.0, 1e6]), st.integers(0, 3))
def test_figures_of_numbers_are_those_of_scipy_and_scikit_learn(seed: int, n: int, size: float, digits: int) -> None:
    chance = np.random.default_rng(seed)
    truth = np.round(chance.normal(size=n), digits) * size + 3 * size  # few digits make ties
    said = truth + size * chance.normal(size=n)
    ours = figures(metrics_numbers.figures(truth, said))
    assert ours["mae"] == pytest.approx(sklearn.metrics.mean_absolute_error(truth, said))
    assert ours["rmse"] == pytest.approx(sklearn.metrics.root_mean_squared_error(truth, said))
    if np.ptp(truth):
        assert ours["r2"] == pytest.approx(sklearn.metrics.r2_score(truth, said), abs=1e-8)
        assert ours["pearson"] == pytest.approx(scipy.stats.pearsonr(truth, said).statistic, abs=1e-8)
        assert ours["spearman"] == pytest.approx(scipy.stats.spearmanr(truth, said).statistic, abs=1e-8)


def test_one_answer_to_everything_has_no_correlation_and_one_truth_says_nothing() -> None:
    constant = figures(metrics_numbers.figures([1.0, 2.0, 4.0], [7.0, 7.0, 7.0]))
    assert constant["pearson"] == constant["spearman"] == 0
    silent = figures(metrics_numbers.figures([1.0, 1.0], [1.0, 2.0]))
    assert np.isnan([silent["pearson"], silent["spearman"], silent["r2"]]).all()


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(1, 40), st.integers(2, 6), st.floats(0, 1))
def test_figures_of_several_labels_are_those_of_scikit_learn(seed: int, n: int, classes: int, often: float) -> None:
    chance = np.random.default_rng(seed)
    truth, said = (chance.random((n, classes)) < often for _ in range(2))
    ours = figures(metrics_multilabel.figures(truth, said))
    how = {"zero_division": 0}
    assert ours["micro_f1"] == pytest.approx(sklearn.metrics.f1_score(truth, said, average="micro", **how))
    occurs = (truth | said).any(0)
    if occurs.any():
        reference = sklearn.metrics.f1_score(truth, said, average=None, **how)[occurs]
        assert ours["macro_f1"] == pytest.approx(np.mean(reference))
    for name, reference in (("precision", sklearn.metrics.precision_score), ("recall", sklearn.metrics.recall_score)):
        assert ours[f"micro_{name}"] == pytest.approx(reference(truth, said, average="micro", **how))
    assert ours["exact_match"] == pytest.approx((truth == said).all(1).mean())
    assert ours["jaccard"] == pytest.approx(
        sklearn.metrics.jaccard_score(truth, said, average="samples", zero_division=1)
    )


@settings(max_examples=60, deadline=None)
@given(seeds, st.integers(1, 12), st.integers(1, 3))
def test_no_other_threshold_is_better_than_the_best(seed: int, n: int, classes: int) -> None:
    chance = np.random.default_rng(seed)
    scores = np.round(chance.random((n, classes)), 1).astype(np.float32)  # many are equal
    truth = chance.random((n, classes)) < scores

    def f1(threshold: float) -> float:
        return figures(metrics_multilabel.figures(truth, scores >= threshold))["micro_f1"]

    assert f1(metrics_multilabel.best_threshold(truth, scores)) == pytest.approx(
        max(f1(t) for t in np.arange(0, 1.1, 0.05)) if truth.any() else 0
    )


def test_labels_become_marks_and_one_that_the_model_does_not_know_is_named() -> None:
    assert metrics_multilabel.marks([["b"], [], ["b", "a"]], ["a", "b"]).tolist() == [[0, 1], [0, 0], [1, 1]]
    with pytest.raises(DataError, match="'c'"):
        metrics_multilabel.marks([["c"]], ["a", "b"])


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(1, 8), st.integers(2, 30))
def test_what_is_found_and_how_it_is_scored_is_that_of_a_plain_count(seed: int, n: int, documents: int) -> None:
    chance = np.random.default_rng(seed)
    queries, vectors = (chance.normal(size=(m, 4)).astype(np.float32) for m in (n, documents))
    right = [set(np.flatnonzero(chance.random(documents) < 0.2).tolist()) for _ in range(n)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics_retrieval, "CELLS", 2 * documents)  # two queries at a time
        found = metrics_retrieval.nearest(queries, vectors)
    near = queries @ vectors.T
    for row, one in zip(near, found, strict=True):
        assert one.tolist() == sorted(range(documents), key=lambda i: (-row[i], i))[:10]
    gains = metrics_retrieval.gains(found, right)
    total = np.array([len(good) for good in right])
    counted = np.ones(n)
    ours = figures(metrics_retrieval.figures(gains, [np.ones(min(10, m)) for m in total], counted))
    ours |= figures([metrics_retrieval.recall(gains, total, counted)])
    asked = [i for i in range(n) if right[i]]
    if not asked:
        assert np.isnan(list(ours.values())).all()
        return
    truth = np.array([[i in good for i in range(documents)] for good in right], float)[asked]
    places = [[place for place, i in enumerate(found[q].tolist()) if i in right[q]] for q in asked]
    assert ours["ndcg_at_10"] == pytest.approx(sklearn.metrics.ndcg_score(truth, near[asked], k=10))
    assert ours["mrr_at_10"] == pytest.approx(np.mean([1 / (1 + p[0]) if p else 0 for p in places]))
    assert ours["hit_at_1"] == pytest.approx(np.mean([0 in p for p in places]))
    assert ours["recall_at_10"] == pytest.approx(
        np.mean([len(p) / total[q] for q, p in zip(asked, places, strict=True)])
    )


def test_graded_gains_are_those_of_scikit_learn() -> None:
    gains, scores = np.array([3.0, 0.0, 1.0, 2.0]), np.array([0.1, 0.9, 0.5, 0.4])
    ordered = gains[np.argsort(-scores)]
    ours = figures(metrics_retrieval.figures([ordered], [gains], np.ones(1)))
    assert ours["ndcg_at_10"] == pytest.approx(sklearn.metrics.ndcg_score([gains], [scores]))
    assert ours["mrr_at_10"] == 0.5


def test_a_text_does_not_find_itself() -> None:
    vectors = np.eye(3, dtype=np.float32)
    found = metrics_retrieval.nearest(vectors, vectors, np.arange(3))
    assert [row.tolist() for row in found] == [[1, 2], [0, 2], [0, 1]]


def test_figures_of_a_resample_are_those_of_its_rows() -> None:
    chance = np.random.default_rng(5)
    truth, said = chance.normal(size=30), chance.normal(size=30)
    drawn = chance.integers(0, 30, 30)
    times = np.bincount(drawn, minlength=30)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for metric in metrics_numbers.figures(truth, said):
            if metric.name != "spearman":  # whose ranks are those of the whole sample
                again = next(m for m in metrics_numbers.figures(truth[drawn], said[drawn]) if m.name == metric.name)
                assert float(metric.value(times @ metric.rows)) == pytest.approx(again.figure)
