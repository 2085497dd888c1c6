"""``feilun bill events``: files of CloudEvents in and out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from feilun.cli import app
from feilun.errors import ConflictError, DataError

PROJECT = """
[project]
name = "ocr"

[bill.meters.pages]
unit = "page"

[bill.plans.metered]
overage = { pages = "0.001 USD" }
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("FEILUN_HOME", "FEILUN_DATABASE_URL", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "feilun.toml").write_text(PROJECT)
    run("tenant", "add", "acme", "--plan", "metered", "--project", str(tmp_path))
    return tmp_path


def run(*arguments: str, stdin: str | bytes | None = None) -> str:
    return CliRunner().invoke(app, arguments, input=stdin, catch_exceptions=False).stdout


def line(number: int, **more: object) -> str:
    event = {"specversion": "1.0", "id": str(number), "source": "/ocr", "type": "pages", "subject": "acme"}
    return json.dumps(event | {"data": number} | more) + "\n"


def test_what_is_imported_is_exported_and_importing_it_again_adds_nothing(project: Path) -> None:
    file, copy, where = project / "events.jsonl", project / "copy.jsonl", ("--project", str(project))
    file.write_text(line(1) + "\n" + line(2) + line(1))
    assert json.loads(run("bill", "events", "import", str(file), "--json", *where)) == {
        "received": 3,
        "recorded": 2,
        "duplicates": 1,
    }
    run("bill", "events", "export", "acme", str(copy), *where)
    assert [json.loads(text)["data"]["units"] for text in copy.read_text().splitlines()] == [1, 2]
    assert run("bill", "events", "export", "acme", *where).splitlines() == copy.read_text().splitlines()
    assert len(run("bill", "events", "export", "acme", "--after", "1", *where).splitlines()) == 1
    told = run("bill", "events", "import", "-", "--json", *where, stdin=copy.read_bytes())
    assert json.loads(told) == {"received": 2, "recorded": 0, "duplicates": 2}


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ("{", DataError),
        (line(3, subject="nobody"), DataError),
        (line(3, data=-1), DataError),
        (line(3, data="3"), DataError),
        (line(1, data=9), ConflictError),
        ("\udcff", DataError),
    ],
)
def test_a_bad_line_is_named_and_none_of_its_call_is_recorded(project: Path, bad: str, error: type[Exception]) -> None:
    file, where = project / "events.jsonl", ("--project", str(project))
    file.write_bytes((line(1) + line(2) + "\n" + bad).encode("utf-8", "surrogateescape"))
    with pytest.raises(error) as refused:
        run("bill", "events", "import", str(file), *where)
    assert refused.value.where == f"{file}:4"
    assert run("bill", "events", "export", "acme", *where) == ""


def test_a_file_that_is_not_there_is_told(project: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        run("bill", "events", "import", str(project / "none.jsonl"), "--project", str(project))
