"""Whether two answers to the same question say the same, whatever their task is."""

from __future__ import annotations

import json
import math
from typing import Any, NamedTuple

NOT_SAID = ("id", "created", "model", "release", "usage", "system_fingerprint")  # what is about the answer


class Difference(NamedTuple):
    """``same``: every word, whole number and truth value is; ``furthest``: the largest distance of two other numbers.

    So two classifiers agree where they choose the same labels, two taggers where they find the same spans, and how far
    their scores are apart is told beside it.
    """

    same: bool
    furthest: float


def compare(one: bytes, other: bytes) -> Difference:
    """Two answers as they are given, in JSON.

    >>> compare(b'{"id":"a","results":[{"label":"x","score":0.5}]}', b'{"results":[{"label":"x","score":0.75}]}')
    Difference(same=True, furthest=0.25)
    >>> compare(b'{"results":[{"label":"x"}]}', b'{"results":[{"label":"y"}]}').same
    False
    """
    first, second = json.loads(one), json.loads(other)
    for answer in (first, second):
        for name in NOT_SAID:
            answer.pop(name, None)
    return _compare(first, second)


def _compare(one: Any, other: Any) -> Difference:
    if isinstance(one, float) or isinstance(other, float):
        numbers = [x for x in (one, other) if isinstance(x, float | int) and not isinstance(x, bool)]
        if len(numbers) < 2 or not all(math.isfinite(x) for x in numbers):
            return Difference(False, 0.0)
        return Difference(True, abs(one - other))
    if isinstance(one, dict) and isinstance(other, dict):
        parts = [_compare(one[name], other[name]) for name in one.keys() & other.keys()]
        return _together(one.keys() == other.keys(), parts)
    if isinstance(one, list) and isinstance(other, list):
        return _together(len(one) == len(other), [_compare(*pair) for pair in zip(one, other, strict=False)])
    return Difference(type(one) is type(other) and one == other, 0.0)


def _together(same: bool, parts: list[Difference]) -> Difference:
    return Difference(same and all(part.same for part in parts), max((part.furthest for part in parts), default=0.0))
