"""Documents that share rare words with a text: the wrong answers that are hard to tell from the right one.

Words are the network's own tokens, weighted by TF-IDF; so no language needs a splitter of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from feilun.tasks.metrics import Ints

CELLS = 4_000_000  # similarities in memory at a time
Ids = Sequence[Sequence[int]]


def wrong(queries: Ids, documents: Ids, right: Sequence[Collection[int]], most: int) -> list[Ints]:
    """The numbers of up to ``most`` documents for each query, nearest first, that are not known to be right for it.

    Args:
        queries, documents: token ids of N queries and D documents.
        right: of each query, what is no wrong answer; rows may share one collection.
    """
    words = 1 + max((max(row, default=0) for row in [*queries, *documents]), default=0)
    shown, asked = _counts(documents, words), _counts(queries, words)
    rarity = np.log((1 + len(documents)) / (1 + np.bincount(shown.indices, minlength=words))).astype(np.float32) + 1
    shown, asked = (_unit(table.multiply(rarity).tocsr()) for table in (shown, asked))
    excluded = {id(good): np.fromiter(good, np.int64) for good in right}
    found: list[Ints] = []
    rows = max(1, CELLS // max(1, len(documents)))
    for start in range(0, len(queries), rows):
        near = (asked[start : start + rows] @ shown.T).toarray()
        for one, good in zip(near, right[start : start + rows], strict=True):
            one[excluded[id(good)]] = -1
            first = np.argpartition(-one, min(most, len(one)) - 1)[:most]
            found.append(first[one[first] >= 0][np.argsort(-one[first][one[first] >= 0], kind="stable")])
    return found


def _counts(rows: Ids, words: int) -> Any:
    """Which token stands how often in which row, (rows, words)."""
    ends = np.cumsum([0, *(len(row) for row in rows)])
    ids = np.fromiter((token for row in rows for token in row), np.int64, count=int(ends[-1]))
    table = sparse.csr_matrix((np.ones(len(ids), np.float32), ids, ends), shape=(len(rows), words))
    table.sum_duplicates()
    return table


def _unit(table: Any) -> Any:
    length = np.sqrt(np.asarray(table.multiply(table).sum(1)).ravel())
    return sparse.diags(1 / np.maximum(length, 1e-12)) @ table
