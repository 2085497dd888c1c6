"""The examples that ship read as they stand: each project is valid, and its rows become what its task learns."""

from __future__ import annotations

from pathlib import Path

import pytest

from feilun import catalog, datasets, flywheel
from feilun.pipeline import project as projects
from feilun.pipeline.kinds import Source
from feilun.pipeline.steps import Workspace
from feilun.prepare import prepare
from feilun.tasks import get, meant

ROOT = Path(__file__).parents[2] / "examples"
OWN = sorted(file.parent.name for file in ROOT.glob("*/feilun.toml") if "[finetune." in file.read_text("utf-8"))


@pytest.mark.parametrize("name", OWN)
def test_an_example_has_the_columns_that_its_task_reads(store, tmp_path, name):
    project = projects.load(ROOT / name, flywheel.OTHERS, recipes=ROOT.parent / "recipes")
    tuned = [s for s in project.sections.values() if s.step.name == "finetune"]
    assert tuned
    for section in tuned:
        prepared = project.sections[str(section.references["examples"])]
        fetched = catalog.fetch(str(prepared.references["source"]), Source, root=ROOT / name)
        source = store.add(Source, fetched.files, parents=[], facts=fetched.facts)
        folder = tmp_path / section.name
        folder.mkdir()
        dataset = prepare(source, prepared.settings, Workspace(store, folder, tmp_path / "scratch"))
        frame = datasets.read(dataset, "train")
        task = get(meant(section.settings.task, frame.columns))
        datasets.require(frame, task.COLUMNS, name)
        assert task.labels(frame) == sorted(task.labels(frame))
        assert 0 < dataset.facts["splits"]["test"] < dataset.facts["splits"]["train"]
