"""Figures of labels are scikit-learn's, and their bootstrap is a bootstrap of rows."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from feilun.tasks import bootstrap, metrics, metrics_labels


def answers(seed: int, n: int, classes: int, digits: int = 6) -> tuple[metrics.Ints, metrics.Floats]:
    """Truth (N,) and probabilities (N, C) that are right more often than not; few digits make ties."""
    chance = np.random.default_rng(seed)
    truth = chance.integers(0, classes, n)
    logits = np.round(chance.normal(size=(n, classes)) + 2 * np.eye(classes)[truth], digits)
    return truth, np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(30, 90), st.integers(2, 5))
def test_every_figure_is_that_of_scikit_learn(seed: int, n: int, classes: int) -> None:
    truth, scores = answers(seed, n, classes)
    answered, hot = scores.argmax(1), np.eye(classes)[truth]
    ours = {m.name: m.figure for m in metrics_labels.of(truth, scores, classes)}
    occur = sorted({*truth.tolist()})
    how = {"average": "macro", "zero_division": 0}
    assert ours["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(truth, answered))
    assert ours["macro_f1"] == pytest.approx(sklearn.metrics.f1_score(truth, answered, **how))
    assert ours["micro_f1"] == pytest.approx(sklearn.metrics.f1_score(truth, answered, average="micro"))
    assert ours["macro_precision"] == pytest.approx(sklearn.metrics.precision_score(truth, answered, **how))
    assert ours["macro_recall"] == pytest.approx(sklearn.metrics.recall_score(truth, answered, **how))
    assert ours["mcc"] == pytest.approx(sklearn.metrics.matthews_corrcoef(truth, answered))
    assert ours["log_loss"] == pytest.approx(sklearn.metrics.log_loss(truth, scores, labels=range(classes)))
    assert ours["ece"] == pytest.approx(metrics.calibration_error(truth, scores.astype(np.float32)), abs=1e-4)
    for name, reference in (
        ("roc_auc", sklearn.metrics.roc_auc_score),
        ("pr_auc", sklearn.metrics.average_precision_score),
    ):
        assert ours[name] == pytest.approx(np.mean([reference(hot[:, c], scores[:, c]) for c in occur])), name


@given(st.integers(0, 10**6))
def test_ties_are_counted_as_scikit_learn_counts_them(seed: int) -> None:
    chance = np.random.default_rng(seed)
    positive = np.array([True, False, *(chance.random(40) < 0.4)])
    scores = np.round(chance.random(42), 1)
    for curve, reference in (
        (metrics_labels.roc, sklearn.metrics.roc_auc_score),
        (metrics_labels.precision_recall, sklearn.metrics.average_precision_score),
    ):
        area, moves = curve(positive, scores)
        assert area == pytest.approx(reference(positive, scores))
        assert moves.sum() == pytest.approx(0, abs=1e-9)  # twice each row is the same rows


@pytest.mark.parametrize("name", [m.name for m in metrics_labels.of(*answers(0, 9, 2), 2)])
def test_the_interval_is_that_of_a_bootstrap_of_rows_written_out(name: str) -> None:
    truth, scores = answers(1, 300, 3, digits=1)
    chance = np.random.default_rng(2)

    def one(rows: metrics.Ints) -> metrics.Metric:
        return next(m for m in metrics_labels.of(truth[rows], scores[rows], 3) if m.name == name)

    ends = bootstrap.interval(bootstrap.draws([one(np.arange(300))], 3000, 0)[0])
    assert ends is not None
    low, high = ends
    slow = [one(chance.integers(0, 300, 300)).figure for _ in range(400)]
    width = np.percentile(slow, 97.5) - np.percentile(slow, 2.5)
    assert low == pytest.approx(np.percentile(slow, 2.5), abs=0.2 * width)
    assert high == pytest.approx(np.percentile(slow, 97.5), abs=0.2 * width)


def test_some_of_the_rows_are_ranked_anew() -> None:
    truth, scores = answers(3, 120, 3)
    chosen = np.arange(120) % 2 == 0
    for part, whole in zip(
        metrics_labels.of(truth[chosen], scores[chosen], 3), metrics_labels.of(truth, scores, 3), strict=True
    ):
        assert whole.of(chosen).figure == pytest.approx(part.figure), part.name


def test_an_order_of_rows_of_one_class_says_nothing() -> None:
    figures = {m.name: m.figure for m in metrics_labels.of(np.zeros(5, np.int64), np.full((5, 2), 0.5), 2)}
    assert np.isnan(figures["roc_auc"]) and np.isnan(figures["pr_auc"])
    assert figures["mcc"] == 0 and figures["accuracy"] == 1


def test_figures_of_equally_many_rows_meet_the_same_draws() -> None:
    truth, scores = answers(4, 200, 3)
    twice = [m for _ in range(2) for m in metrics_labels.of(truth, scores, 3)]
    first, again = np.split(np.stack(bootstrap.draws(twice, 200, 5)), 2)
    np.testing.assert_array_equal(first, again)


def test_draws_of_many_rows_come_in_blocks_and_are_the_same_again(monkeypatch: pytest.MonkeyPatch) -> None:
    right = metrics.mean("accuracy", np.arange(500) % 5 == 0)
    whole = bootstrap.draws([right], 300, 7)[0]
    monkeypatch.setattr(bootstrap, "AT_ONCE", 500 * 7)  # seven resamples at once
    blocks = bootstrap.draws([right], 300, 7)[0]
    assert blocks.shape == (300,)
    np.testing.assert_array_equal(blocks, whole)


def test_the_interval_covers_the_true_value_about_as_often_as_it_says() -> None:
    chance = np.random.default_rng(2)
    cells = np.array([[30, 5, 5], [4, 12, 4], [6, 4, 30]]) / 100
    sums = np.concatenate([cells.sum(1), cells.sum(0), np.diagonal(cells)])
    true = float(metrics_labels.of_classes(sums)[2].mean())
    covered = 0
    for trial in range(200):
        seen = chance.choice(9, 600, p=cells.ravel())
        rows = metrics_labels.class_rows(seen // 3, seen % 3, 3)
        f1 = metrics.Metric("macro_f1", rows, lambda s: metrics_labels.of_classes(s)[..., 2, :].mean(-1))
        ends = bootstrap.interval(bootstrap.draws([f1], 300, trial)[0])
        covered += ends is not None and ends[0] <= true <= ends[1]
    assert 0.91 <= covered / 200 <= 0.985
