"""search, validate and learning-curve as commands, on a tiny network."""

from __future__ import annotations

import json
import tomllib

import pytest
from typer.testing import CliRunner

from feilun.cli import app
from feilun.errors import FeilunError
from tests.models import tiny

PROJECT = """
[project]
name = "films"

[prepare.films]
source = "films.jsonl"
text = "text"
label = "label"
time = "at"
near_duplicate = 1.0
domain = "films"

[finetune.films]
base = "base"
examples = "prepare.films"
epochs = 6
learning_rate = 5e-3
batch_tokens = 512
context = 40
freeze_embeddings = false

[bill]
core_hour = "3600 USD"
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    for name in ("FEILUN_HOME", "FEILUN_DATABASE_URL", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "feilun.toml").write_text(PROJECT)
    tiny.write_base(tmp_path / "base")
    rows = tiny.frame(160).select("text", "label").with_row_index("at").to_dicts()
    (tmp_path / "films.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def feilun(*arguments):
    done = CliRunner().invoke(app, [*arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.stdout


def test_the_best_settings_are_lines_of_the_project_file(project):
    told = json.loads(
        feilun("search", "--trials", "3", "--space", "learning_rate=1e-4..1e-2", "--plot", "search.svg", "--json")
    )
    best = next(t for t in told["trials"] if t["number"] == told["best"])
    assert tomllib.loads(told["toml"])["finetune"]["films"] == best["values"] == told["settings"]
    assert told["stopped"] == "trials" and told["cost"].endswith("USD")
    assert b"<svg" in (project / "search.svg").read_bytes()
    assert (project / ".feilun" / "trials" / "finetune.films.db").exists()
    shown = feilun("search", "films", "--trials", "3", "--space", "learning_rate=1e-4..1e-2")
    assert told["toml"] in shown
    status = json.loads(feilun("status", "--json"))
    assert sum(run["name"].startswith("search finetune.films") for run in status["runs"]) >= 3


def test_folds_and_curves_are_told_in_words_and_in_json(project):
    told = json.loads(feilun("validate", "--folds", "2", "--by", "time", "--plot", "folds.png", "--json"))
    assert told["by"] == "time" and len(told["folds"]) == 2
    assert told["folds"][0]["learned"] < told["folds"][1]["learned"]
    shown = feilun("validate", "--folds", "2", "--by", "time")
    assert "95 % interval of the mean" in shown and shown.count("reused") == 2
    curve = json.loads(feilun("learning-curve", "--sizes", "4", "--draws", "1", "--plot", "curve.svg", "--json"))
    assert [e["times"] for e in curve["expected"]] == [1, 2, 4] and len(curve["points"]) == 4
    assert "gain over what there is" in feilun("learning-curve", "--sizes", "4", "--draws", "1")


def test_mistakes_are_told_before_anything_is_trained(project):
    for arguments, says in (
        (("search", "finetune.film"), "there is no section"),
        (("search", "--money", "1"), "not an amount of money"),
        (("search", "--plot", "search.pdf"), "a plot cannot be"),
        (("validate", "--plot", "nowhere/folds.svg"), "no such folder"),
        (("validate", "--by", "contributor"), "a contributor of its own"),
    ):
        with pytest.raises(FeilunError, match=says):
            feilun(*arguments)
    runs = json.loads(feilun("status", "--json"))["runs"]
    assert not any(run["name"].startswith(("search", "validate")) and run["outcome"] == "finished" for run in runs)
