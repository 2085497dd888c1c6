"""The kinds of artefact that steps take and make."""

from __future__ import annotations

import json
from typing import Any

from feilun.store.artifacts import Artifact


class Source(Artifact):
    """Rows as they came from outside: one file, ``facts["format"]`` says how to read it."""

    kind = "source"


class Dataset(Artifact):
    """``data.parquet``: id, text, label, split, contributor and domain; ``card.json`` says how it came to be."""

    kind = "dataset"


class Model(Artifact):
    """Weights and tokenizer; ``facts["format"]`` is the engine's: safetensors, openvino or onnx, say."""

    kind = "model"


class Report(Artifact):
    """``report.json`` with figures and intervals; ``facts["passed"]`` where it is a gate."""

    kind = "report"

    def missed(self) -> list[str]:
        """Each requirement that was not met, in words; none of a report that is no gate."""
        checks = json.loads((self.path / "report.json").read_bytes()).get("checks", [])
        return [_missed(check) for check in checks if not check["passed"]]


class Release(Artifact):
    """``release.json``: the model that answers, its labels, and the probes that prove it was loaded right."""

    kind = "release"


class Product(Artifact):
    """Rows or counts that are sold: ``rows.jsonl``, ``rows.csv``; ``card.json`` and ``people.json`` stay here."""

    kind = "product"


def _missed(check: dict[str, Any]) -> str:
    """As many places as tell the figure from its limit."""
    value, limit = check["value"], check["required"]
    short = f"{value:.3f}"
    measured = short if (float(short) < limit) == (value < limit) and float(short) != limit else repr(value)
    return f"{check['name']} is {measured}, {'at most' if check.get('at_most') else 'at least'} {limit:g} is required"
