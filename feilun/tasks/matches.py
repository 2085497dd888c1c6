"""Which texts belong together: what ``embed`` and ``rank`` learn from, and are measured with."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from feilun.errors import DataError
from feilun.tasks.metrics import Floats, Ints


@dataclass(frozen=True)
class Matches:
    """N queries (the column ``text``) and D different documents.

    ``positive``: the number of the document that stands beside each query, (N,). ``right``: of all that are known to be
    right for it; rows of one query share one set. ``wrong``: those that are known to be wrong. ``itself``: the document
    that the query itself is, where queries are documents of each other; else none.
    """

    queries: list[str]
    documents: list[str]
    positive: Ints
    right: Sequence[Collection[int]]
    wrong: list[list[int]]
    itself: Ints | None = None

    @property
    def counted(self) -> Floats:
        """1 for the first row of each query, 0 for the others: a query counts once, however many rows it has."""
        counted = np.zeros(len(self.queries))
        counted[list({query: row for row, query in reversed(list(enumerate(self.queries)))}.values())] = 1
        return counted

    @property
    def first(self) -> Ints:
        """Where queries are documents of each other: the first row of each document, (D,)."""
        return np.unique(self.itself if self.itself is not None else [], return_index=True)[1]


def documents(frame: pl.DataFrame) -> list[str]:
    """The different texts in ``other`` and ``rejected``, in the order in which they come."""
    columns = [frame[name].to_list() for name in ("other", "rejected") if name in frame.columns]
    return list(dict.fromkeys(text for column in columns for text in column))


def find(frame: pl.DataFrame) -> Matches:
    """Pairs from the columns ``text`` and ``other``; without ``other``, rows with the same ``label`` belong together.

    A column ``rejected`` holds a wrong document for each row. With a column ``score`` a row whose score is not above 0
    is wrong as well, and not a pair to learn from (its ``positive`` is -1).

    Raises:
        DataError: neither column is there, or both are: a label beside a pair does not say whether it belongs together.
    """
    if ("other" in frame.columns) == ("label" in frame.columns):
        raise DataError(
            "texts that belong together are needed: a second text for each, or a label that they share",
            where=f"columns {', '.join(frame.columns)}",
            hint="say in prepare which column of the source is other, or which is label; not both",
        )
    return _of_pairs(frame) if "other" in frame.columns else _of_labels(frame)


def _of_pairs(frame: pl.DataFrame) -> Matches:
    queries, others = frame["text"].to_list(), frame["other"].to_list()
    rejected = frame["rejected"].to_list() if "rejected" in frame.columns else []
    shown = documents(frame)
    number = {text: i for i, text in enumerate(shown)}
    fits = (frame["score"] > 0).to_list() if "score" in frame.columns else [True] * frame.height
    right: dict[str, set[int]] = {query: set() for query in queries}
    wrong: dict[str, dict[int, None]] = {query: {} for query in queries}
    for query, other, good in zip(queries, others, fits, strict=True):
        if good:
            right[query].add(number[other])
        else:
            wrong[query][number[other]] = None
    for query, other in zip(queries, rejected, strict=False):
        wrong[query][number[other]] = None
    positive = [number[other] if good else -1 for other, good in zip(others, fits, strict=True)]
    bad = [[i for i in wrong[query] if i not in right[query]] for query in queries]
    return Matches(queries, shown, np.array(positive, np.int64), [right[query] for query in queries], bad)


def _of_labels(frame: pl.DataFrame) -> Matches:
    """Each row's positive is another row of its label: the next one in a shuffled circle, so that all serve once."""
    queries, labels = frame["text"].to_list(), frame["label"].to_list()
    shown = list(dict.fromkeys(queries))
    number = {text: i for i, text in enumerate(shown)}
    rows: dict[str, list[int]] = {}
    for row, label in enumerate(labels):
        rows.setdefault(label, []).append(row)
    right = {label: {number[queries[row]] for row in group} for label, group in rows.items()}
    positive = np.zeros(len(queries), np.int64)
    for group in rows.values():
        order = np.random.default_rng(len(group)).permutation(group)
        for row, following in zip(order, np.roll(order, -1), strict=True):
            positive[row] = number[queries[following]]
    itself = np.array([number[query] for query in queries], np.int64)
    return Matches(queries, shown, positive, [right[label] for label in labels], [[] for _ in queries], itself)
