"""Whole numbers divided into whole numbers whose sum is exactly what was divided."""

from __future__ import annotations

from collections.abc import Sequence

from feilun.store.money import half_even

__all__ = ["allocate", "half_even"]


def allocate(whole: int, weights: Sequence[int]) -> list[int]:
    """Divide ``whole`` in proportion to ``weights``; the parts sum to ``whole``.

    Each part is the exact share rounded down; what is left over goes, one unit each, to the largest remainders, the
    earlier first where they are equal (Hamilton's method).

    Raises:
        ValueError: a weight is negative, or all are 0 and there is something to divide.

    >>> allocate(100, [1, 1, 1])
    [34, 33, 33]
    """
    total = sum(weights)
    if any(weight < 0 for weight in weights) or (total == 0 and whole != 0):
        raise ValueError("weights must not be negative, and not all 0")
    if total == 0:
        return [0] * len(weights)
    parts, remainders = zip(*(divmod(whole * weight, total) for weight in weights), strict=True)
    shares = list(parts)
    first = sorted(range(len(weights)), key=lambda i: -remainders[i])
    for i in first[: whole - sum(shares)]:
        shares[i] += 1
    return shares
