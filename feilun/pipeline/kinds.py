"""The kinds of artefact that steps take and make."""

from __future__ import annotations

from feilun.store.artifacts import Artifact


class Source(Artifact):
    """Rows as they came from outside: one file, ``facts["format"]`` says how to read it."""

    kind = "source"


class Dataset(Artifact):
    """``data.parquet``: id, text, label, split, contributor and domain; ``card.json`` says how it came to be."""

    kind = "dataset"


class Model(Artifact):
    """Weights and tokenizer; ``facts["format"]`` is the engine's: safetensors or openvino."""

    kind = "model"


class Report(Artifact):
    """``report.json`` with figures and intervals; ``facts["passed"]`` where it is a gate."""

    kind = "report"


class Release(Artifact):
    """``release.json``: the model that answers, its labels, and the probes that prove it was loaded right."""

    kind = "release"


class Product(Artifact):
    """Rows or counts that are sold: ``rows.jsonl``, ``rows.csv``; ``card.json`` and ``people.json`` stay here."""

    kind = "product"
