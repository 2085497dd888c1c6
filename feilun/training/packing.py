"""Batches of tokens, not of rows: rows of like length share a batch, so that little of it is padding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

POOL = 2048  # rows that are sorted by length together; more would leave less padding and less chance in the order


def batches(lengths: Sequence[int], budget: int, seed: int, epoch: int) -> list[list[int]]:
    """Every row number once, in batches whose longest row times their rows is at most ``budget``.

    A row that is longer than the budget gets a batch of its own. The order depends on nothing but the arguments.

    >>> sorted(map(sorted, batches([3, 9, 3, 2], budget=9, seed=0, epoch=0)))
    [[0, 2, 3], [1]]
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths)).tolist()
    packed: list[list[int]] = []
    for start in range(0, len(order), POOL):
        batch: list[int] = []
        for row in sorted(order[start : start + POOL], key=lengths.__getitem__):
            if batch and (len(batch) + 1) * lengths[row] > budget:
                packed.append(batch)
                batch = []
            batch.append(row)
        packed.append(batch)
    return [packed[i] for i in random.permutation(len(packed))]
