"""The step ``prepare`` on rows made in the test."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from feilun.pipeline.kinds import Dataset, Source
from feilun.pipeline.steps import Workspace
from feilun.prepare import PrepareSettings, prepare
from feilun.store.artifacts import ArtifactStore
from feilun.store.migrations import open_database

Run = Callable[..., tuple[Dataset, dict[str, Any]]]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ArtifactStore]:
    with open_database(f"sqlite:///{tmp_path / 'events.db'}") as database:
        yield ArtifactStore(tmp_path / "artefacts", database)


@pytest.fixture
def run(tmp_path: Path, store: ArtifactStore) -> Run:
    """``run(rows, **settings)``: rows are dicts; returns the dataset and its card."""
    numbers = itertools.count()

    def prepared(rows: list[dict[str, Any]], **settings: Any) -> tuple[Dataset, dict[str, Any]]:
        number = next(numbers)
        files, folder, scratch = (tmp_path / f"{name}{number}" for name in ("files", "folder", "scratch"))
        for place in (files, folder, scratch):
            place.mkdir()
        (files / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        facts = {"format": "jsonl", "origin": "rows.jsonl", "licence": "CC0-1.0", "title": "Rows of a test"}
        source = store.add(Source, files, parents=[], facts=facts)
        dataset = prepare(source, PrepareSettings.model_validate(settings), Workspace(store, folder, scratch))
        return dataset, json.loads((dataset.path / "card.json").read_text())

    return prepared
