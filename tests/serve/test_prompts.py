"""What was asked is written down only where the project says so: redacted, and for as long as it says."""

from __future__ import annotations

import json
import stat
import time
from pathlib import Path

import pytest

from faults.house import House, Running, ask, gateway
from feilun.bill.masking import mask
from feilun.errors import ProjectError
from feilun.flywheel import OTHERS
from feilun.pipeline import project
from feilun.serve.prompts import PromptLog, Prompts, PromptSettings


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for file in sorted(folder.glob("*.jsonl")) for line in file.read_text().splitlines()]


def test_inputs_are_written_redacted_where_the_project_wants_it(house: House, tmp_path: Path) -> None:
    token = house.tenant("logged")
    with gateway(house, prompts={"folder": str(tmp_path / "prompts"), "keep_days": 7}) as running:
        key = {"Idempotency-Key": "once"}
        reply = ask(running, token, ["good film, ann@example.com", "bad plot"], headers=dict(key)).json()
        ask(running, token, ["good film, ann@example.com", "bad plot"], headers=dict(key))
        ask(running, token, model="nothing")
        running.stop()
    (line,) = lines(tmp_path / "prompts")
    assert (line["request"], line["tenant"], line["model"]) == (reply["id"], "logged", "reviews")
    assert line["texts"] == ["good film, [EMAIL]", "bad plot"]
    (file,) = (tmp_path / "prompts").glob("*.jsonl")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "prompts").stat().st_mode) == 0o700


def test_nothing_is_written_otherwise_case_55(house: House, running: Running) -> None:
    ask(running, house.tokens["acme"], "ann@example.com zanzibar")
    for file in house.folder.rglob("*"):
        if file.is_file():
            assert b"zanzibar" not in file.read_bytes()


def test_what_is_older_than_the_retention_time_is_deleted(tmp_path: Path) -> None:
    old, kept, other = (tmp_path / name for name in ("2020-01-01.jsonl", "9999-01-01.jsonl", "2020-notes.txt"))
    for file in (old, kept, other):
        file.write_text("{}\n")
    log = PromptLog(Prompts(tmp_path, 7, lambda text: mask(text)[0]))
    log.note("r", "acme", "reviews", ["call 13800138000"])
    log.close()
    assert not old.exists()
    assert kept.exists()
    assert other.exists()
    today = tmp_path / f"{time.strftime('%Y-%m-%d', time.gmtime())}.jsonl"
    assert json.loads(today.read_text())["texts"] == ["call [PHONE]"]


def test_a_disk_that_takes_nothing_costs_no_answer(tmp_path: Path) -> None:
    log = PromptLog(Prompts(tmp_path / "prompts", 7, lambda text: text))
    (tmp_path / "prompts").rmdir()
    (tmp_path / "prompts").write_text("a file where the folder was")
    log.note("r", "acme", "reviews", ["x"])
    log.close()
    assert [file.name for file in tmp_path.iterdir()] == ["prompts"]


def test_the_section_needs_a_retention_time(tmp_path: Path) -> None:
    (tmp_path / "feilun.toml").write_text('[project]\nname = "p"\n[prompts]\n')
    with pytest.raises(ProjectError, match="keep_days"):
        project.load(tmp_path, OTHERS)
    (tmp_path / "feilun.toml").write_text('[project]\nname = "p"\n[prompts]\nkeep_days = 7\n')
    assert project.load(tmp_path, OTHERS).others["prompts"] == PromptSettings(keep_days=7)
