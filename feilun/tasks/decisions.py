"""What an answer decides, and its scores, whatever the task: for asking whether two models say the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def of(said: Mapping[str, Any]) -> set[str]:
    """What an answer decides: all that it says beside numbers with a fraction.

    One decision is all that is plain, one each entry of a list (labels, spans), and of a ranking only who is first.

    >>> sorted(of({"labels": ["b", "a"], "scores": {"a": 0.7, "b": 0.9}}))
    ['labels: "a"', 'labels: "b"']
    >>> of({"score": 2.5})
    set()
    """
    plain, found = {}, set()
    for name, value in said.items():
        if isinstance(value, list):
            entries = value[:1] if name == "ranking" else value
            found |= {f"{name}: {kept}" for entry in entries if (kept := _words(entry))}
        elif kept := _words(value):
            plain[name] = kept
    return found | {json.dumps(plain, sort_keys=True)} if plain else found


def scores(value: Any, place: str = "") -> dict[str, float]:
    """The numbers with a fraction of an answer, each by where it stands; in a list, by the words it stands beside.

    >>> scores({"label": "b", "scores": {"a": 0.1, "b": 0.9}})
    {'.scores.a': 0.1, '.scores.b': 0.9}
    """
    if isinstance(value, float):
        return {place: value}
    found: dict[str, float] = {}
    if isinstance(value, Mapping):
        for name, part in value.items():
            found |= scores(part, f"{place}.{name}")
    elif isinstance(value, list):
        for number, part in enumerate(value):
            found |= scores(part, f"{place}[{_words(part) or number}]")
    return found


def _words(value: Any) -> str:
    """What is no number with a fraction; "" where nothing else is there."""
    if isinstance(value, Mapping):
        placed = "start" in value  # then the words at that place say nothing more
        kept = {n: words for n, part in value.items() if (words := _words(part)) and not (placed and n == "text")}
        return json.dumps(kept, sort_keys=True) if kept else ""
    return "" if isinstance(value, float) else json.dumps(value)
