"""The names of figures that are known beforehand are those that are measured."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from feilun import tasks
from feilun.tasks import (
    generate,
    metrics_answers,
    metrics_known,
    metrics_labels,
    metrics_multilabel,
    metrics_numbers,
    metrics_retrieval,
    metrics_spans,
    metrics_text,
)
from feilun.tasks.metrics import Metric

ONE = np.ones(2)
FOUND = metrics_retrieval.figures([ONE, ONE], [ONE, ONE], ONE)
LABELS = metrics_labels.of(np.array([0, 1]), np.eye(2), 2)
MEASURED: dict[str, list[Metric]] = {
    "classify": LABELS,
    "pair": LABELS,
    "multilabel": metrics_multilabel.figures(np.eye(2, dtype=bool), np.eye(2, dtype=bool)),
    "regress": metrics_numbers.figures([1, 2], [1, 2]),
    "similarity": metrics_numbers.figures([1, 2], [1, 2]),
    "tag": metrics_spans.of([[(0, 1, "x")]], [[(0, 1, "x")]], ["x"]),
    "extract": metrics_answers.of([["a"]], ["a"]),
    "rank": FOUND,
    "embed": [*FOUND, metrics_retrieval.recall([ONE, ONE], np.array([1, 1]), ONE)],
    "generate": [*metrics_text.of(["a"], ["a"]), metrics_text.perplexity([1.0], [1]), generate.left_out([1])],
}


@pytest.mark.parametrize("task", MEASURED)
def test_what_can_be_required_is_what_is_measured_and_in_that_order(task: str) -> None:
    known = [name.replace("[LABEL]", "[x]") for name in metrics_known.BY_TASK[task] if ":" not in name]
    assert known == [metric.name for metric in MEASURED[task]]


def test_every_task_is_known() -> None:
    assert tuple(metrics_known.BY_TASK) == tasks.NAMES


def test_a_task_that_the_dataset_decides_has_the_figures_of_both() -> None:
    assert {"pearson", "macro_f1"} <= set(metrics_known.possible("pair"))
    assert "jaccard" in metrics_known.possible("classify") and "jaccard" not in metrics_known.possible("pair")


def test_to_know_the_names_loads_no_torch() -> None:
    program = "import sys, feilun.evaluate.declared; print('torch' in sys.modules, 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == (
        "False False\n"
    )
