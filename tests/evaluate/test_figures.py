from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from feilun.evaluate import figures
from feilun.tasks import metrics

matrices = arrays.arrays(np.int64, (3, 3), elements=st.integers(0, 40)).filter(lambda m: m.sum() > 0)


@given(matrices, st.integers(0, 99))
def test_a_resample_has_as_many_rows_and_no_new_kind_of_mistake(matrix: figures.Ints, seed: int) -> None:
    drawn = figures.resample(matrix, 50, seed)
    assert (drawn.sum((1, 2)) == matrix.sum()).all()
    assert not drawn[:, matrix == 0].any()
    np.testing.assert_array_equal(drawn, figures.resample(matrix, 50, seed))


def test_resampling_the_matrix_is_resampling_the_rows() -> None:
    """The intervals of the multinomial draw and of a bootstrap of rows, written out, are the same within noise."""
    chance = np.random.default_rng(1)
    truth = chance.integers(0, 3, 400)
    answered = np.where(chance.random(400) < 0.7, truth, chance.integers(0, 3, 400))
    matrix = metrics.confusion(truth, answered, 3)
    quick = metrics.macro_f1(figures.resample(matrix, 4000, 0))
    slow = []
    for _ in range(4000):
        rows = chance.integers(0, 400, 400)
        slow.append(float(metrics.macro_f1(metrics.confusion(truth[rows], answered[rows], 3))))
    for q in (2.5, 50, 97.5):
        assert np.percentile(quick, q) == pytest.approx(np.percentile(slow, q), abs=0.004)


def test_the_interval_covers_the_true_value_about_as_often_as_it_says() -> None:
    chance = np.random.default_rng(2)
    cells = np.array([[30, 5, 5], [4, 12, 4], [6, 4, 30]])
    true = float(metrics.macro_f1(cells))
    covered = 0
    for trial in range(300):
        seen = chance.multinomial(600, (cells / cells.sum()).ravel()).reshape(3, 3)
        found = figures.with_interval(0, metrics.macro_f1(figures.resample(seen, 300, trial)))
        covered += found["low"] <= true <= found["high"]
    assert 0.91 <= covered / 300 <= 0.985


def test_where_every_answer_is_right_the_interval_is_one_point() -> None:
    truth = np.array([0] * 7 + [1] * 3 + [2])
    found = figures.of(truth, np.eye(3, dtype=np.float32)[truth], ["a", "b", "c"], resamples=500, seed=0)
    assert found["macro_f1"] == found["accuracy"] == {"value": 1.0, "low": 1.0, "high": 1.0}


def test_a_label_that_never_occurs_does_not_lower_the_mean() -> None:
    truth = np.array([0, 1] * 20)
    scores = np.eye(3, dtype=np.float32)[truth]
    found = figures.of(truth, scores, ["a", "b", "c"], resamples=100, seed=0)
    assert found["macro_f1"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert found["classes"]["c"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "n": 0}
    assert found["confusion"] == [[20, 0, 0], [0, 20, 0], [0, 0, 0]]
