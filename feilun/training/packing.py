"""Batches of tokens, or of rows: rows of like length share a batch, so that little of it is padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from feilun.training.settings import FitSettings

POOL = 2048  # rows that are sorted by length together; more would leave less padding and less chance in the order


@dataclass(frozen=True)
class Plan:
    """Which rows meet in which batch.

    ``batches``: any sequence, also one that makes a batch when it is asked for it; asked for the same number it must
    give the same rows, for a resumed training asks again. ``rows``: how many are in a batch on average; ``epoch``: how
    many batches an epoch has on average; ``whole``: a row's loss depends on the others of its batch, so that no batch
    may be split between processes.
    """

    batches: Sequence[Sequence[int]]
    rows: float
    epoch: float
    whole: bool = False


def plan(lengths: Sequence[int], settings: FitSettings, *, whole: bool = False) -> Plan:
    """The batches of all epochs, as the settings say."""
    rows, budget = settings.batch_rows, settings.batch_tokens
    packed = [
        batch for epoch in range(settings.epochs) for batch in batches(lengths, budget, settings.seed, epoch, rows=rows)
    ]
    return Plan(packed, len(lengths) * settings.epochs / max(1, len(packed)), len(packed) / settings.epochs, whole)


def batches(lengths: Sequence[int], budget: int, seed: int, epoch: int, *, rows: int = 0) -> list[list[int]]:
    """Every row number once, in batches whose longest row times their rows is at most ``budget``.

    A row that is longer than the budget gets a batch of its own. The order depends on nothing but the arguments.

    Args:
        rows: so many rows make a batch, however long they are; 0 goes by the budget.

    >>> sorted(map(sorted, batches([3, 9, 3, 2], budget=9, seed=0, epoch=0)))
    [[0, 2, 3], [1]]
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths)).tolist()
    packed: list[list[int]] = []
    pool = POOL - POOL % rows if 0 < rows < POOL else max(POOL, rows)  # only the last batch has fewer rows than asked
    for start in range(0, len(order), pool):
        batch: list[int] = []
        for row in sorted(order[start : start + pool], key=lengths.__getitem__):
            if batch and (len(batch) == rows if rows else (len(batch) + 1) * lengths[row] > budget):
                packed.append(batch)
                batch = []
            batch.append(row)
        packed.append(batch)
    return [packed[i] for i in random.permutation(len(packed))]
