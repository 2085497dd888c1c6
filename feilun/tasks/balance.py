"""How much a label's rows count while it is learned."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from feilun.tasks.metrics import Floats


def weights(counts: NDArray[np.int64], power: float, *, each_row: bool) -> Floats:
    """The weight of each label, (C,), from how many rows have it: 1 / count ** power.

    Args:
        power: 0 weighs every row the same, 1 every label.
        each_row: make the rows' mean weight 1 (a row has one label); else the labels' (every label judges every row).

    >>> weights(np.array([30, 10]), 1.0, each_row=True).tolist()
    [0.6666666666666666, 2.0]
    """
    found: Floats = np.maximum(counts, 1).astype(np.float64) ** -power
    return found / np.average(found, weights=counts if each_row and counts.any() else None)
