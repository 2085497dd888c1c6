"""``feilun bill show`` and ``feilun bill --out``: files as a reader gets them, over a project of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from feilun.bill import credit_notes, profiles
from feilun.cli.bill_show import show
from feilun.errors import AccessError, SettingError
from feilun.flywheel import Flywheel
from feilun.store.money import format_money
from tests.bill.paper_text import pages

CLEAN = {k: v for k, v in os.environ.items() if not k.startswith("FEILUN_") and k != "DATABASE_URL"}


def feilun(folder: Path, *arguments: str) -> Any:
    command = [sys.executable, "-m", "feilun", *arguments, "--json"]
    return json.loads(subprocess.run(command, cwd=folder, env=CLEAN, capture_output=True, text=True, check=True).stdout)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    feilun(folder, "init", ".")
    feilun(folder, "tenant", "add", "acme", "--plan", "starter")
    with Flywheel(folder, []) as wheel:
        profiles.save(
            wheel.database, "acme", name="数据科技有限公司", address="上海市\n浦东新区", country="CN", language="zh"
        )
    feilun(folder, "bill", "--close", "--now", "--out", "paper")
    return folder


def test_each_form_of_a_closed_invoice_goes_to_standard_output(
    project: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    told = {}
    for form in ("pdf", "html", "csv", "json", "text"):
        show("INV-000001", form, "en", None, project)
        told[form] = capsysbinary.readouterr().out
    assert told["pdf"].startswith(b"%PDF") and "Amount due" in pages(told["pdf"])[0]
    total = json.loads(told["json"])["total"]
    assert total.encode() in told["html"] and total.encode() in told["text"] and total in pages(told["pdf"])[0]
    assert told["csv"].startswith(b'"invoice","tenant"')


def test_files_of_all_forms_are_written_in_the_language_of_the_customer(project: Path) -> None:
    names = {file.name for file in (project / "paper").iterdir()}
    assert names == {f"INV-000001-acme.{ending}" for ending in ("pdf", "html", "csv", "json")}
    first = "".join(pages((project / "paper" / "INV-000001-acme.pdf").read_bytes())[0].split())
    assert "应付金额" in first and "数据科技有限公司" in first
    assert "应付金额" in (project / "paper" / "INV-000001-acme.html").read_text("utf-8")


def test_out_names_a_file_or_a_folder_and_the_bytes_are_the_same(project: Path, tmp_path: Path) -> None:
    show("INV-000001", "pdf", None, tmp_path / "own.pdf", project)
    show("INV-000001", "pdf", None, tmp_path, project)
    written = [(tmp_path / name).read_bytes() for name in ("own.pdf", "INV-000001-acme.pdf")]
    assert written[0] == written[1] == (project / "paper" / "INV-000001-acme.pdf").read_bytes()


def test_a_credit_note_is_shown_by_its_number(project: Path, tmp_path: Path) -> None:
    with Flywheel(project, []) as wheel:
        note = credit_notes.issue(wheel.database, "INV-000001", wheel.bill_settings, reason="客户 <投诉>")
    show(note.number, "pdf", "en", tmp_path / "note.pdf", project)
    told = pages((tmp_path / "note.pdf").read_bytes())[0]
    assert "Credit note" in told and "Corrects invoice\nINV-000001" in told
    assert f"Credited\n{format_money(-note.total_nano, note.currency)}" in told
    show(note.number, "html", None, tmp_path, project)
    assert "冲销 INV-000001/1" in (tmp_path / "CN-000001-acme.html").read_text("utf-8")


def test_what_cannot_be_shown_is_told_with_what_can(project: Path, tmp_path: Path) -> None:
    with pytest.raises(AccessError) as absent:
        show("INV-000002", "text", None, None, project)
    assert absent.value.hint == "did you mean 'INV-000001'?"
    with pytest.raises(SettingError, match="no invoices in 'fr'"):
        show("INV-000001", "text", "fr", None, project)
    with pytest.raises(SettingError, match="no form 'docx'"):
        show("INV-000001", "docx", None, None, project)
    with pytest.raises(SettingError, match="cannot write"):
        show("INV-000001", "html", None, tmp_path / "nowhere" / "x.html", project)
