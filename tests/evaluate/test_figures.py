from __future__ import annotations

import numpy as np
import pytest

from feilun.evaluate import figures, labels
from feilun.evaluate.figures import Bootstrap
from feilun.tasks import metrics, metrics_labels

HOW = Bootstrap(resamples=500, seed=0)


def of(truth: metrics.Ints, scores: metrics.Floats) -> dict[str, dict[str, float]]:
    return figures.of(metrics_labels.of(truth, scores, scores.shape[1]), HOW)


def test_where_every_answer_is_right_the_interval_is_one_point() -> None:
    truth = np.array([0] * 7 + [1] * 3 + [2])
    found = of(truth, np.eye(3)[truth])
    assert found["macro_f1"] == found["accuracy"] == {"value": 1.0, "low": 1.0, "high": 1.0}


def test_a_label_that_never_occurs_does_not_lower_the_mean() -> None:
    truth = np.array([0, 1] * 20)
    scores = np.eye(3, dtype=np.float32)[truth]
    assert of(truth, scores)["macro_f1"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    found = labels.details(truth, scores, ["a", "b", "c"], HOW)
    assert {k: found["classes"]["c"][k] for k in ("precision", "recall", "f1", "n")} == dict.fromkeys(
        ("precision", "recall", "f1", "n"), 0
    )
    assert found["confusion"] == [[20, 0, 0], [0, 20, 0], [0, 0, 0]]


def test_an_interval_holds_its_value_and_a_figure_that_says_nothing_is_left_out() -> None:
    chance = np.random.default_rng(0)
    scores = chance.dirichlet([1, 1, 1], 60)
    found = of(np.array([chance.choice(3, p=p) for p in scores]), scores)  # calibrated: resampling only worsens it
    assert all(f["low"] <= f["value"] <= f["high"] for f in found.values())
    assert "roc_auc" not in of(np.zeros(8, np.int64), scores[:8])
    assert figures.of([], HOW) == {}


def test_the_temperature_that_is_found_is_the_one_that_was_put_in() -> None:
    chance = np.random.default_rng(1)
    logits = chance.normal(size=(6000, 4)) * 1.5
    honest = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    truth = np.array([chance.choice(4, p=p) for p in honest])
    sure = labels.scale(honest, 1 / 2.5).astype(np.float32)  # logits 2.5 times too large
    assert labels.fit_temperature(truth, sure) == pytest.approx(2.5, rel=0.06)
    told = labels.temperature(truth, sure, seed=0)
    assert told is not None
    for name in ("ece", "log_loss", "brier"):
        assert told["after"][name] < told["before"][name]
    assert told["after"]["ece"] < 0.03 < 0.1 < told["before"]["ece"]


def test_the_reliability_of_bins_adds_up_to_the_calibration_error() -> None:
    chance = np.random.default_rng(2)
    scores = chance.dirichlet([0.4] * 3, 300).astype(np.float32)
    truth = chance.integers(0, 3, 300)
    bins = labels.reliability(truth, scores)
    assert sum(b["n"] for b in bins) == 300
    error = sum(b["n"] * abs(b["score"] - b["right"]) for b in bins) / 300
    assert error == pytest.approx(metrics.calibration_error(truth, scores), abs=1e-6)


def test_texts_are_split_in_thirds_by_length_and_each_counts_once() -> None:
    texts = ["x" * (i % 50 + 1) for i in range(150)]
    right = metrics.mean("accuracy", [len(t) > 30 for t in texts])
    found = figures.by_length(texts, [right], HOW)
    assert sum(part["n"] for part in found) == 150 and len(found) == 3
    assert found[0]["accuracy"]["value"] == 0 and found[-1]["accuracy"]["value"] == 1
    assert len(figures.by_length(["same"] * 5, [metrics.mean("accuracy", [1] * 5)], HOW)) <= 1
