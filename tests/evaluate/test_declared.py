"""What a gate requires is checked while nothing has been trained yet."""

from __future__ import annotations

from pathlib import Path

import pytest

from feilun.errors import ProjectError
from feilun.flywheel import Flywheel

PROJECT = """
[project]
name = "desks"
[prepare.desk]
source = "rows.csv"
domain = "desk.letters"
[finetune.desk]
base = "catalog:all-MiniLM-L6-v2"
examples = "prepare.desk"
task = "TASK"
[compress.desk]
model = "finetune.desk"
examples = "prepare.desk"
[evaluate.desk]
model = "compress.desk"
examples = ["prepare.desk"]
require = { "REQUIRE" = 0.5 }
"""


def opened(folder: Path, require: str, task: str = "classify") -> None:
    (folder / "feilun.toml").write_text(PROJECT.replace("REQUIRE", require).replace("TASK", task), "utf-8")
    Flywheel(folder).close()


@pytest.mark.parametrize(
    ("require", "task"),
    [
        ("accuracy", "classify"),
        ("desk.letters.macro_f1", "classify"),
        ("f1:legal, v1.2 [x]", "classify"),
        ("desk.letters.recall:a.b:c", "pair"),
        ("jaccard", "classify"),  # which the dataset may make multilabel
        ("pearson", "pair"),
        ("f1[street.name]", "tag"),
        ("desk.letters.f1[city]", "tag"),
    ],
)
def test_what_can_be_measured_may_be_required(tmp_path: Path, require: str, task: str) -> None:
    opened(tmp_path, require, task)


@pytest.mark.parametrize(
    ("require", "task", "told"),
    [
        ("acuracy", "classify", "did you mean 'accuracy'?"),
        ("desk.letters.acuracy", "classify", "did you mean 'accuracy'?"),
        ("rouge_l", "classify", "the task 'classify' has no figure 'rouge_l'"),
        ("f2:legal", "classify", "did you mean 'f1:LABEL'?"),
        ("f1:city", "tag", "did you mean 'f1[LABEL]'?"),
        ("f1:legal", "regress", "no figure 'f1:LABEL'"),
        ("desk.leters.accuracy", "classify", "did you mean 'desk.letters'?"),
        ("films.accuracy", "classify", "no dataset of evaluate.desk is of the domain 'films'"),
    ],
)
def test_what_cannot_be_measured_is_refused_when_the_project_is_read(
    tmp_path: Path, require: str, task: str, told: str
) -> None:
    with pytest.raises(ProjectError) as caught:
        opened(tmp_path, require, task)
    assert told in str(caught.value) and "feilun.toml:14  [evaluate.desk]" in str(caught.value)


def test_what_comes_from_outside_is_judged_when_it_has_answered(tmp_path: Path) -> None:
    text = PROJECT.replace('["prepare.desk"]', '["rows"]').replace('"compress.desk"', '"hf:org/name"')
    (tmp_path / "feilun.toml").write_text(text.replace("REQUIRE", "films.pearson").replace("TASK", "classify"), "utf-8")
    Flywheel(tmp_path).close()
    (tmp_path / "feilun.toml").write_text(text.replace("REQUIRE", "person").replace("TASK", "classify"), "utf-8")
    with pytest.raises(ProjectError, match="did you mean 'pearson'"):
        Flywheel(tmp_path)
