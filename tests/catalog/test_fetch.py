"""Every way to name data or a model gives the same facts each time, or an error that helps."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import save_file

from feilun import catalog
from feilun.catalog import hub
from feilun.errors import ArtifactError, DataError, ProjectError, SettingError, UnavailableError
from feilun.pipeline.kinds import Dataset, Model, Source

ROWS = "text,label\ngood,positive\nbad,negative\n"


@pytest.fixture
def root(tmp_path) -> Path:
    folder = tmp_path / "project"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "rows.csv").write_text(ROWS)
    return folder


@pytest.fixture
def model(root) -> Path:
    folder = root / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "license": "apache-2.0"}))
    (folder / "tokenizer.json").write_text("{}")
    save_file({"a": np.ones(3, np.float32)}, folder / "model.safetensors")
    return folder


def test_a_path_is_relative_to_the_project(root):
    fetched = catalog.fetch("data/rows.csv", Source, root=root)
    assert [file.name for file in fetched.files.iterdir()] == ["rows.csv"]
    assert fetched.facts == {"format": "csv", "origin": "data/rows.csv"}
    assert not fetched.pinned


def test_the_identity_of_a_path_follows_its_content(root):
    before = catalog.identity("data/rows.csv", root)
    os.utime(root / "data" / "rows.csv", (0, 0))
    assert catalog.identity("data/rows.csv", root) == before
    (root / "data" / "rows.csv").write_text(ROWS + "fine,positive\n")
    assert catalog.identity("data/rows.csv", root) != before


def test_identities_that_are_known_without_fetching(root):
    pin = "a" * 64
    known = [
        catalog.identity("catalog:vader-reviews/films", root),
        catalog.identity("catalog:vader-reviews/tweets", root),
        catalog.identity("catalog:all-MiniLM-L6-v2", root),
        catalog.identity(f"https://example.org/rows.csv#sha256={pin}", root),
        catalog.identity(f"hf:org/name@{'0' * 40}", root),
    ]
    assert None not in known and len(set(known)) == len(known)
    assert catalog.identity("catalog:vader-reviews/movies", root) == known[0]
    assert catalog.identity("hf:org/name@main", root) is None
    assert catalog.identity("sql:SHOP:SELECT 1", root) is None


def test_a_model_folder_gives_weights_and_settings_and_leaves_the_rest(root, model):
    (model / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    (model / "chat_template.jinja").write_text("{{ messages }}", "utf-8")
    (model / "onnx").mkdir()
    fetched = catalog.fetch("model", Model, root=root)
    names = sorted(file.name for file in fetched.files.iterdir())
    assert names == ["chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json"]
    assert fetched.facts == {"format": "safetensors", "licence": "apache-2.0", "origin": "model"}


def test_an_adapter_beside_the_weights_comes_with_them_and_is_looked_at_as_they_are(root, model):
    without = catalog.identity("model", root)
    (model / "adapter").mkdir()
    (model / "adapter" / "adapter_config.json").write_text("{}")
    (model / "adapter" / "notes.txt").write_text("left where it is")
    (model / "adapter" / "adapter_model.safetensors").write_bytes((model / "model.safetensors").read_bytes())
    fetched = catalog.fetch("model", Model, root=root)
    assert sorted(file.name for file in (fetched.files / "adapter").iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors",
    ]  # fmt: skip
    assert catalog.identity("model", root) != without
    (model / "adapter" / "adapter_model.safetensors").write_bytes(b"\x80\x04\x95.")
    with pytest.raises(ArtifactError, match="holds a pickle"):
        catalog.fetch("model", Model, root=root)


def test_a_folder_of_pickles_is_not_a_model_case_41(root, model):
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    with pytest.raises(ProjectError) as caught:
        catalog.fetch("model", Model, root=root)
    assert "pickles" in str(caught.value.hint)


def test_a_pickle_called_safetensors_is_refused_and_leaves_nothing_behind_case_41(root, model, cache_folder):
    (model / "model.safetensors").write_bytes(b"\x80\x04\x95.")
    with pytest.raises(ArtifactError, match="holds a pickle"):
        catalog.fetch("model", Model, root=root)
    assert list((cache_folder / "partial").iterdir()) == []


@pytest.mark.parametrize(
    ("reference", "hint"),
    [
        ("data/row.csv", "did you mean 'rows.csv'?"),
        ("sst2", "did you mean 'catalog:sst2'?"),
        ("catalogue:sst2", "did you mean 'catalog'?"),
        ("s3://bucket/rows.csv", None),
        ("catalog:sst", "did you mean 'sst2'?"),
        ("data/rows\0.csv", None),
        ("x" * 5_000, None),
        ("", None),
        ("hf:../../etc", "write hf:org/name"),
        ("hf:org/na me", "write hf:org/name"),
        ("hf:org/name/../../x", None),
        ("sql:SELECT 1", 'write "sql:SHOP_DB:SELECT text, label FROM reviews"'),
        ("sql:SHOP:DROP TABLE x", "write"),
    ],
)
def test_a_reference_that_cannot_be_read_gets_a_hint_case_42(root, reference, hint):
    for attempt in (lambda: catalog.fetch(reference, Source, root=root), lambda: catalog.identity(reference, root)):
        with pytest.raises(ProjectError) as caught:
            attempt()
        assert hint is None or str(caught.value.hint).startswith(hint)


def test_the_wrong_kind_says_which_is_needed(root):
    with pytest.raises(ProjectError, match="is a model, a source is needed"):
        catalog.fetch("catalog:all-MiniLM-L6-v2", Source, root=root)
    with pytest.raises(ProjectError) as caught:
        catalog.fetch("data/rows.csv", Dataset, root=root)
    assert "[prepare.NAME]" in str(caught.value.hint)
    with pytest.raises(ProjectError, match="a model is a folder"):
        catalog.fetch("data/rows.csv", Model, root=root)


def test_a_file_of_an_unknown_format_and_a_folder_of_several_are_named(root):
    (root / "data" / "rows.xlsx").write_bytes(b"x")
    with pytest.raises(ProjectError) as caught:
        catalog.fetch("data/rows.xlsx", Source, root=root)
    assert ".parquet" in str(caught.value.hint)
    (root / "data" / "more.csv").write_text(ROWS)
    with pytest.raises(ProjectError) as caught:
        catalog.fetch("data", Source, root=root)
    assert "more.csv" in str(caught.value.hint)


def test_files_of_the_shared_folder_are_taken_if_they_are_what_was_pinned(root, monkeypatch):
    shared = root.parent / "elsewhere"
    (shared / "trec").mkdir(parents=True)
    (shared / "trec" / "test.txt").write_text("0 not the real rows\n")
    monkeypatch.setenv("FEILUN_SHARED_DATA", str(shared))
    with pytest.raises(UnavailableError) as caught:
        catalog.fetch("catalog:trec/test", Source, root=root)
    assert "not what was pinned" in str(caught.value.where)


@pytest.fixture
def shop(root, monkeypatch) -> Path:
    with sqlite3.connect(root / "shop.db") as connection:
        connection.execute("CREATE TABLE reviews (text TEXT, stars INTEGER)")
        connection.executemany("INSERT INTO reviews VALUES (?, ?)", [("good: really", 5), ("bad", 1), (None, None)])
    connection.close()
    monkeypatch.setenv("SHOP_DB", f"sqlite:///{root / 'shop.db'}")
    return root / "shop.db"


def test_a_query_becomes_parquet(root, shop):
    fetched = catalog.fetch("sql:SHOP_DB:SELECT text, stars FROM reviews ORDER BY stars", Source, root=root)
    frame = pl.read_parquet(fetched.files / "rows.parquet")
    assert frame.rows() == [(None, None), ("bad", 1), ("good: really", 5)]
    assert fetched.facts["format"] == "parquet"
    assert str(shop) not in json.dumps(fetched.facts)


def test_a_query_cannot_change_the_database(root, shop):
    before = shop.read_bytes()
    with pytest.raises(DataError):
        catalog.fetch("sql:SHOP_DB:WITH x AS (SELECT 1) DELETE FROM reviews", Source, root=root)
    assert shop.read_bytes() == before


def test_a_query_that_is_wrong_says_why(root, shop):
    with pytest.raises(DataError, match="no such column: star"):
        catalog.fetch("sql:SHOP_DB:SELECT star FROM reviews", Source, root=root)


def test_a_database_that_is_not_named_or_not_there_never_shows_its_address_case_55(root, monkeypatch):
    with pytest.raises(SettingError, match="SHOP_DB is not set"):
        catalog.fetch("sql:SHOP_DB:SELECT 1", Source, root=root)
    for address in ("sqlite:////nowhere/secret.db", "mysql://u:secret@h/d", "postgresql://u:secret@127.0.0.1:1/d"):
        monkeypatch.setenv("SHOP_DB", address)
        with pytest.raises((SettingError, UnavailableError)) as caught:
            catalog.fetch("sql:SHOP_DB:SELECT 1", Source, root=root)
        assert "secret" not in str(caught.value)


def test_postgresql_gives_rows_and_takes_none(root, new_url, monkeypatch):
    import psycopg

    url = new_url("postgresql")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE reviews AS SELECT 'good' AS text, 5 AS stars")
    monkeypatch.setenv("SHOP_DB", url)
    fetched = catalog.fetch("sql:SHOP_DB:SELECT text, stars FROM reviews", Source, root=root)
    assert pl.read_parquet(fetched.files / "rows.parquet").rows() == [("good", 5)]
    with pytest.raises(DataError, match="read-only"):
        catalog.fetch("sql:SHOP_DB:WITH x AS (DELETE FROM reviews RETURNING text) SELECT * FROM x", Source, root=root)


IN_THE_HUB_CACHE = """
import sys
from pathlib import Path
from feilun import catalog
from feilun.errors import UnavailableError
from feilun.pipeline.kinds import Model, Source
fetched = catalog.fetch("hf:org/name", Model, root=Path("."))
print(sorted(f.name for f in fetched.files.iterdir()), fetched.facts, fetched.pinned)
fetched = catalog.fetch("hf:org/name@" + "1" * 40, Model, root=Path("."))
print(fetched.pinned)
fetched = catalog.fetch("hf:org/rows/data/rows.csv", Source, root=Path("."))
print(sorted(f.name for f in fetched.files.iterdir()), fetched.facts)
try:
    catalog.fetch("hf:org/other", Model, root=Path("."))
except UnavailableError as error:
    print(error.name)
"""


def test_hub_repositories_that_are_on_this_machine_need_no_network(root, model, tmp_path):
    commit = "1" * 40
    for kind, name, files in (("models", "name", model), ("datasets", "rows", None)):
        home = tmp_path / "hub" / f"{kind}--org--{name}"
        (home / "refs").mkdir(parents=True)
        (home / "refs" / "main").write_text(commit)
        if files:
            shutil.copytree(files, home / "snapshots" / commit)
        else:
            (home / "snapshots" / commit / "data").mkdir(parents=True)
            (home / "snapshots" / commit / "data" / "rows.csv").write_text(ROWS)
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", IN_THE_HUB_CACHE], env=environment, capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert lines[0].startswith("['config.json', 'model.safetensors', 'tokenizer.json']")
    assert "'origin': 'hf:org/name'" in lines[0] and lines[0].endswith("False")
    assert lines[1] == "True"
    assert lines[2].startswith("['rows.csv'] {'format': 'csv'")
    assert lines[3] == "unreachable"


def test_a_hub_reference_is_taken_apart():
    assert hub.parse("org/name") == ("org/name", None, None)
    assert hub.parse("org/name@v1.0") == ("org/name", "v1.0", None)
    assert hub.parse("org/name@v1/data/a.csv") == ("org/name", "v1", "data/a.csv")
