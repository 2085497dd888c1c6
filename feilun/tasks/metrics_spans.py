"""Figures of spans: how many of those that were found are right, and how many of the right ones were found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from feilun.errors import DataError
from feilun.tasks.metrics import Floats, Metric, mean

Span = tuple[int, int, str]


def of(truth: Sequence[Sequence[Span]], found: Sequence[Sequence[Span]], labels: Sequence[str]) -> list[Metric]:
    """F1, precision and recall over all spans, the labels' mean F1, each label's, and the share of flawless rows.

    A span is right when its start, its end and its label are, as CoNLL-2003 and seqeval count. Every figure is 0 where
    there is nothing to count.

    Raises:
        DataError: a true span has a label that is not among ``labels``.
    """
    number = {label: i for i, label in enumerate(labels)}
    counts = np.zeros((len(truth), len(labels), 3))  # right, found, true
    whole = np.zeros(len(truth))
    for row, (true, said) in enumerate(zip(truth, found, strict=True)):
        wanted, given = set(true), set(said)
        for column, spans in enumerate((wanted & given, given, wanted)):
            for _, _, label in spans:
                if label not in number:
                    hint = f"it knows {', '.join(labels)}"
                    raise DataError(f"the model does not know the label '{label}'", where="column spans", hint=hint)
                counts[row, number[label], column] += 1
        whole[row] = wanted == given
    together = counts.sum(1)
    return [
        Metric("f1", together, f1),
        Metric("precision", together, precision),
        Metric("recall", together, recall),
        Metric("macro_f1", counts.reshape(len(truth), -1), _macro),
        *(Metric(f"f1[{label}]", counts[:, i], f1) for i, label in enumerate(labels)),
        mean("exact_rows", whole),
    ]


def f1(counts: Floats) -> Floats:
    """From counts (..., 3) of right, found and true spans.

    >>> float(f1(np.array([1.0, 2.0, 2.0])))
    0.5
    """
    return _share(2 * counts[..., 0], counts[..., 1] + counts[..., 2])


def precision(counts: Floats) -> Floats:
    """The share of the found spans that is right."""
    return _share(counts[..., 0], counts[..., 1])


def recall(counts: Floats) -> Floats:
    """The share of the true spans that was found."""
    return _share(counts[..., 0], counts[..., 2])


def _macro(sums: Floats) -> Floats:
    """Of the labels that occur among the true or the found spans."""
    counts = sums.reshape(*sums.shape[:-1], -1, 3)
    occurs = counts[..., 1:].sum(-1) > 0
    return _share(f1(counts).sum(-1), occurs.sum(-1))


def _share(part: Floats, whole: Any) -> Floats:
    share: Floats = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
    return share
