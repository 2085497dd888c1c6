from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st

from feilun.errors import DataError
from feilun.tasks import metrics

pairs = st.integers(2, 5).flatmap(
    lambda c: st.tuples(
        st.just(c), st.lists(st.tuples(st.integers(0, c - 1), st.integers(0, c - 1)), min_size=1, max_size=80)
    )
)


@given(pairs)
def test_figures_are_those_of_scikit_learn(given_pairs: tuple[int, list[tuple[int, int]]]) -> None:
    classes, rows = given_pairs
    truth, answered = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    matrix = metrics.confusion(truth, answered, classes)
    names = list(range(classes))
    np.testing.assert_array_equal(matrix, sklearn.metrics.confusion_matrix(truth, answered, labels=names))
    ours = metrics.scores(matrix)
    theirs = sklearn.metrics.precision_recall_fscore_support(truth, answered, labels=names, zero_division=0)
    for mine, reference in zip(ours, theirs[:3], strict=True):
        np.testing.assert_allclose(mine, reference)
    reference = sklearn.metrics.f1_score(truth, answered, average="macro", zero_division=0)
    assert float(metrics.macro_f1(matrix)) == pytest.approx(reference)
    assert float(metrics.accuracy(matrix)) == pytest.approx(sklearn.metrics.accuracy_score(truth, answered))


def test_calibration_error_is_0_when_scores_are_right_as_often_as_they_say() -> None:
    scores = np.array([[0.75, 0.25]] * 4, np.float32)
    assert metrics.calibration_error(np.array([0, 0, 0, 1]), scores) == pytest.approx(0)
    assert metrics.calibration_error(np.array([1, 1, 1, 1]), scores) == pytest.approx(0.75)


def test_a_label_that_the_model_does_not_know_is_named() -> None:
    with pytest.raises(DataError, match="'ugly'"):
        metrics.numbers(["good", "ugly"], ["bad", "good"])
