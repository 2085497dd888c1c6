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

    def source(rows: list[dict[str, Any]]) -> Source:
        files = tmp_path / f"files{next(numbers)}"
        files.mkdir()
        (files / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        facts = {"format": "jsonl", "origin": "rows.jsonl", "licence": "CC0-1.0", "title": "Rows of a test"}
        return store.add(Source, files, parents=[], facts=facts)

    def prepared(
        rows: list[dict[str, Any]], held_out: list[dict[str, Any]] | None = None, **settings: Any
    ) -> tuple[Dataset, dict[str, Any]]:
        folder = tmp_path / f"folder{next(numbers)}"
        folder.mkdir()
        given = PrepareSettings.model_validate(settings)
        work = Workspace(store, folder, tmp_path / "scratch")
        dataset = prepare(source(rows), given, work, source(held_out) if held_out else None)
        return dataset, json.loads((dataset.path / "card.json").read_text())

    return prepared


@pytest.fixture
def file(tmp_path: Path, store: ArtifactStore) -> Callable[..., Dataset]:
    """``file(name, body, facts={}, **settings)``: one file becomes a dataset."""
    numbers = itertools.count()

    def prepared(name: str, body: str, facts: dict[str, Any] | None = None, **settings: Any) -> Dataset:
        files, folder = (tmp_path / f"{kind}{next(numbers)}" for kind in ("named", "made"))
        files.mkdir()
        folder.mkdir()
        (files / name).write_text(body, "utf-8")
        form = {"txt": "lines"}.get(name.rpartition(".")[2], name.rpartition(".")[2])
        source = store.add(Source, files, parents=[], facts={"format": form, "origin": name, **(facts or {})})
        return prepare(source, PrepareSettings.model_validate(settings), Workspace(store, folder, tmp_path / "scratch"))

    return prepared
