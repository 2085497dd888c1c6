"""What is metered."""

from __future__ import annotations

from typing import NamedTuple

METERS = ("requests", "inputs", "tokens")


class Counts(NamedTuple):
    """Units of each meter, in the order of ``METERS``.

    >>> Counts(1, 2, 30).plus(Counts(1, 1, 12))
    Counts(requests=2, inputs=3, tokens=42)
    """

    requests: int = 0
    inputs: int = 0
    tokens: int = 0

    def plus(self, other: Counts) -> Counts:
        """Meter by meter."""
        return Counts(*(a + b for a, b in zip(self, other, strict=True)))

    def minus(self, other: Counts) -> Counts:
        """Meter by meter."""
        return Counts(*(a - b for a, b in zip(self, other, strict=True)))
