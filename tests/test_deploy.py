"""What lies in deploy/ is right as far as that can be seen without a cluster."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner

from feilun.cli import app

ROOT = Path(__file__).absolute().parents[1]
DEPLOY = ROOT / "deploy"


def options(words: list[str]) -> set[str]:
    return {word for word in words if word.startswith("--")}


def known_options() -> set[str]:
    said = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}).stdout
    return set(re.findall(r"--[a-z][a-z-]+", said))


def compose() -> Any:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def unit() -> dict[str, str]:
    pairs = [line.partition("=") for line in (DEPLOY / "feilun.service").read_text().splitlines() if "=" in line]
    return {name: value for name, _, value in pairs if not name.startswith("#")}


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    text = (DEPLOY / "feilun.service").read_text()
    analyser = shutil.which("systemd-analyze")
    if analyser is None:  # not a machine with systemd: at least it has its sections
        assert re.findall(r"^\[(\w+)\]$", text, re.MULTILINE) == ["Unit", "Service", "Install"]
        return
    text = text.replace("/opt/feilun/bin/feilun", shutil.which("true") or "/bin/true")
    (tmp_path / "feilun.service").write_text(text)
    command = [analyser, "verify", str(tmp_path / "feilun.service")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    ours = [line for line in done.stderr.splitlines() if "feilun.service" in line]
    assert ours == []


def test_every_option_that_is_used_exists() -> None:
    container = (DEPLOY / "Containerfile").read_text()
    command = re.search(r"^CMD (\[.*\])$", container, re.MULTILINE)
    assert command is not None
    used = options(yaml.safe_load(command[1])) | options(unit()["ExecStart"].split())
    assert used
    assert used <= known_options()


def test_there_is_time_to_drain_before_anybody_is_killed() -> None:
    leave = float(unit()["ExecStart"].split("--leave-s ")[1].split()[0])
    needed = leave + 20 + 5  # GatewaySettings.grace_s, and to close what is open
    assert float(unit()["TimeoutStopSec"]) > needed
    assert float(compose()["services"]["gateway"]["stop_grace_period"].rstrip("s")) > needed


def test_what_the_image_copies_is_there_and_its_torch_is_ours() -> None:
    container = (DEPLOY / "Containerfile").read_text()
    for line in re.findall(r"^COPY (.+)$", container, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
    (torch,) = re.findall(r"torch==([0-9.]+)", container)
    assert f'"torch=={torch}"' in (ROOT / "pyproject.toml").read_text()


def test_the_gateway_of_the_composition_waits_for_its_database_and_is_told_everything_that_it_reads() -> None:
    services = compose()["services"]
    assert services["gateway"]["depends_on"] == {"database": {"condition": "service_healthy"}}
    assert set(compose()["volumes"]) == {"database", "state"}
    told = (DEPLOY / "feilun.env.example").read_text() + str(services["gateway"]["environment"])
    code = "".join(file.read_text() for file in (ROOT / "feilun" / "store").glob("*.py"))
    for name in re.findall(r"FEILUN_[A-Z_]+", told + (DEPLOY / "feilun.service").read_text()):
        assert name in code or name == "FEILUN_PROJECT", name
    health = re.search(r"127\.0\.0\.1:8765(/\w+)", (DEPLOY / "Containerfile").read_text())
    assert health is not None
    assert health[1] == "/healthz"
