"""A dataset's card: where its rows came from, and how many were left out and why."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from feilun import datasets
from feilun.pipeline.kinds import Source
from feilun.prepare.minhash import Repeat
from feilun.prepare.settings import PrepareSettings

EXAMPLES = 3
FILTERS = (
    "without_text",
    "without_label",
    "same_answers",
    "too_short",
    "too_long",
    "for_development",
    "tied_labels",
    "outvoted_labels",
    "exact_duplicates",
    "near_duplicates",
    "leaked_into_train",
    "over_limit",
)


@dataclass
class Card:
    """Counts of one preparation; ``rows`` in are the rows that are written plus the sum of ``removed``."""

    source: Source
    settings: PrepareSettings
    rows: int
    removed: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FILTERS, 0))
    repaired: int = 0  # texts that were changed by repair
    conflicting_texts: int = 0  # texts that stood there with more than one truth
    examples: list[dict[str, Any]] = field(default_factory=list)

    def filtered(self, why: str, before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame:
        """Count what a filter left out and pass on what it kept."""
        self.removed[why] += before.height - after.height
        return after

    def show_near(self, frame: pl.DataFrame, removed: Sequence[Repeat]) -> None:
        """Keep the three least similar of the near duplicates: the ones by which the threshold can be judged."""
        for repeat in sorted(removed, key=lambda r: (r.jaccard, r.removed))[:EXAMPLES]:
            kept, gone = frame.row(repeat.kept, named=True), frame.row(repeat.removed, named=True)
            shown = {"kept": kept["text"], "removed": gone["text"], "jaccard": repeat.jaccard}
            self.examples.append({**shown, "kept_in": kept["split"], "removed_from": gone["split"]})

    def write(self, frame: pl.DataFrame, folder: Path) -> None:
        """Write ``card.json`` about the rows that are left."""
        length = frame["text"].str.len_chars()
        card = {
            "title": self.source.facts.get("title"),
            "licence": self.source.facts.get("licence"),
            "origin": self.source.facts.get("origin"),
            "source": self.source.digest,
            "settings": self.settings.model_dump(mode="json", exclude_none=True),
            "rows_read": self.rows,
            "texts_repaired": self.repaired,
            "conflicting_texts": self.conflicting_texts,
            "removed": self.removed,
            "rows": frame.height,
            "splits": datasets.describe(frame)["splits"],
            "labels": _counted(frame),
            "contributors": _named(frame),
            "characters": {"least": length.min(), "median": length.median(), "most": length.max()},
            "near_duplicates": self.examples,
        }
        (folder / "card.json").write_text(json.dumps(card, ensure_ascii=False, indent=2) + "\n", "utf-8")


def _named(frame: pl.DataFrame) -> int | None:
    """How many contributors the source names; None where it names none, and every row was given its own."""
    own = pl.col("contributor") == pl.concat_str("domain", "id", separator=":")
    return frame.filter(~own)["contributor"].n_unique() or None


def _counted(frame: pl.DataFrame) -> dict[str, dict[str, int]]:
    """How often each label stands in each split: of rows, or of the names in them."""
    labels = [frame.select("split", "label")] if "label" in frame.columns else []
    if "labels" in frame.columns:
        labels.append(frame.select("split", label="labels").explode("label"))
    if "spans" in frame.columns:
        labels.append(
            frame.select("split", label="spans").explode("label").with_columns(pl.col("label").struct.field("label"))
        )
    by_split: dict[str, dict[str, int]] = {}
    if labels:
        counted = pl.concat(labels).drop_nulls().group_by("split", "label").len().sort("split", "label")
        for split, label, count in counted.rows():
            by_split.setdefault(split, {})[label] = count
    return by_split
