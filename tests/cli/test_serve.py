"""``feilun serve`` as a process: several workers, an end in order, and what is wrong said before anything starts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest
from typer.testing import CliRunner

from feilun import show
from feilun.cli import app
from feilun.errors import SettingError
from feilun.serve.background import free_port

PEPPER = {"FEILUN_PEPPER": "a pepper of more than thirty-two bytes"}


@pytest.fixture(autouse=True)
def standard_output_is_for_people_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway that is started in this process talks on standard error for as long as the process lives."""
    monkeypatch.setattr(show, "_stderr", show._stderr)


def project(folder: Path) -> Path:
    (folder / "feilun.toml").write_text('[project]\nname = "p"\n')
    return folder


def status(url: str) -> int | None:
    try:
        return httpx.get(url, timeout=5).status_code
    except httpx.TransportError:
        return None


def test_two_workers_answer_on_one_port_and_end_with_their_supervisor_at_ctrl_c_case_16(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "feilun", "serve", "--workers", "2", "--port", str(port), "--leave-s", "0.3"]
    with (tmp_path / "log").open("wb") as log:
        told = {"env": {**os.environ, **PEPPER}, "stdout": log, "stderr": log, "start_new_session": True}
        process = subprocess.Popen([*command, "--project", str(project(tmp_path))], **told)
    try:
        end = time.monotonic() + 60
        while status(f"http://127.0.0.1:{port}/healthz") != 200:
            assert time.monotonic() < end, (tmp_path / "log").read_text()
            time.sleep(0.1)
        workers = psutil.Process(process.pid).children()
        assert len(workers) == 2
        assert status(f"http://127.0.0.1:{port}/readyz") == 503  # nothing is released yet
        os.killpg(process.pid, signal.SIGINT)  # as a terminal's Ctrl-C: to the whole group
        assert process.wait(30) == 0
        assert psutil.wait_procs(workers, timeout=5)[1] == []
    finally:
        if process.poll() is None:
            process.kill()
    assert (tmp_path / "log").read_text().count("answers for no release yet") == 1


def test_a_key_without_its_certificate_and_a_certificate_that_is_none_are_told_at_once(tmp_path: Path) -> None:
    where = ["--project", str(project(tmp_path)), "--port", str(free_port())]
    (tmp_path / "key.pem").write_text("not a key")
    alone = CliRunner().invoke(app, ["serve", "--tls-key", str(tmp_path / "key.pem"), *where], env=PEPPER)
    assert isinstance(alone.exception, SettingError)
    assert alone.exception.where == "--tls-key"
    broken = ["serve", "--workers", "2", "--tls-cert", str(tmp_path / "key.pem"), *where]
    none = CliRunner().invoke(app, broken, env=PEPPER)
    assert isinstance(none.exception, SettingError)
    assert none.exception.name == "tls"
