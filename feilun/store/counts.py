"""What is metered: units of each meter, whole numbers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from feilun.store.artifacts import canonical

METERS = ("requests", "inputs", "tokens")  # of every answer, each with a column of its own
WAYS = ("batch", "cached")  # how an answer can come about otherwise than usual, for which a plan may ask another price
# A unit of such an answer counts twice: under its own meter, so that quotas and reports see all there is, and under the
# way's, which says how many of those units have the other price.
OF_WAYS = {f"{way}_{meter}": (way, meter) for way in WAYS for meter in ("requests", "inputs", "tokens", "tokens_out")}
MORE_METERS = ("tokens_out", "compute_ms", *OF_WAYS)  # where there are any: generated tokens, core-milliseconds
NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")  # what a meter of a project's own may be called


class Counts(Mapping[str, int]):
    """Units by meter, immutable; a meter that is not named has 0, and one with 0 is as if not named.

    >>> Counts(1, 2, 30).plus(Counts(1, pages=4))
    Counts(requests=2, inputs=2, tokens=30, pages=4)
    """

    __slots__ = ("_units",)

    def __init__(self, requests: int = 0, inputs: int = 0, tokens: int = 0, **more: int) -> None:
        self._units = {m: n for m, n in (("requests", requests), ("inputs", inputs), ("tokens", tokens)) if n}
        if more:
            self._units |= {meter: more[meter] for meter in sorted(more) if more[meter]}

    def __getitem__(self, meter: str) -> int:
        return self._units.get(meter, 0)

    def __iter__(self) -> Iterator[str]:
        return iter(self._units)

    def __len__(self) -> int:
        return len(self._units)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Counts) and self._units == other._units

    def __hash__(self) -> int:
        return hash(frozenset(self._units.items()))

    def __repr__(self) -> str:
        return f"Counts({', '.join(f'{meter}={n}' for meter, n in self._units.items())})"

    @property
    def requests(self) -> int:
        """How many answers."""
        return self["requests"]

    @property
    def inputs(self) -> int:
        """How many texts."""
        return self["inputs"]

    @property
    def tokens(self) -> int:
        """How many tokens went in."""
        return self["tokens"]

    @property
    def more(self) -> dict[str, int]:
        """The meters that have no column of their own."""
        return {meter: n for meter, n in self._units.items() if meter not in METERS}

    def plus(self, other: Counts) -> Counts:
        """Meter by meter."""
        units = self._units.copy()
        for meter, n in other._units.items():
            units[meter] = units.get(meter, 0) + n
        return _made(units)

    def minus(self, other: Counts) -> Counts:
        """Meter by meter."""
        units = self._units.copy()
        for meter, n in other._units.items():
            units[meter] = units.get(meter, 0) - n
        return _made(units)

    def by_way(self, way: str) -> Counts:
        """The same units, of an answer that came about in one of ``WAYS``.

        >>> Counts(1, 2, 30).by_way("batch").more
        {'batch_inputs': 2, 'batch_requests': 1, 'batch_tokens': 30}
        """
        plain = {name: meter for name, (of, meter) in OF_WAYS.items() if of == way}
        if any(name in self._units for name in OF_WAYS):
            return self  # an answer has one way: it was kept, say, whoever asks for it now
        return self.plus(Counts(**{name: self[meter] for name, meter in plain.items()}))

    def columns(self) -> dict[str, Any]:
        """As a row keeps them: a column for each of ``METERS``, and ``more`` as canonical JSON, null where empty."""
        units, more = self._units, self.more
        row: dict[str, Any] = {meter: units.get(meter, 0) for meter in METERS}
        row["more"] = canonical(more).decode() if more else None
        return row

    @classmethod
    def of(cls, requests: int, inputs: int, tokens: int, more: str | None) -> Counts:
        """From the columns of a row."""
        units = {"requests": requests, "inputs": inputs, "tokens": tokens}
        return _made(units | json.loads(more) if more else units)


def _made(units: dict[str, int]) -> Counts:
    """Counts of a dictionary that nobody else has."""
    made = Counts()
    made._units = {meter: n for meter, n in units.items() if n}
    return made
