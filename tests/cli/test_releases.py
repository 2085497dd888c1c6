"""``feilun releases``: canary, shadow, promotion and the way back, in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from faults.house import make_release
from feilun.cli import app
from feilun.errors import AccessError, ConflictError, SettingError
from feilun.flywheel import Flywheel
from feilun.store import releases, rollouts
from feilun.store.rollouts import Agreement

PROJECT = """
[project]
name = "shop"

[bill.plans.small]
monthly = "20.00 USD"
"""


@pytest.fixture(autouse=True)
def digests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A project with two releases of ``reviews``; the first is promoted."""
    (tmp_path / "feilun.toml").write_text(PROJECT)
    monkeypatch.chdir(tmp_path)
    for name in ("FEILUN_HOME", "FEILUN_DATABASE_URL", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with Flywheel(tmp_path) as wheel:
        (tmp_path / "work").mkdir()
        made = [make_release(wheel.store, tmp_path / "work", seed).digest for seed in (1, 2)]
        releases.promote(wheel.database, "reviews", made[0], expected_version=0, reason="first")
    return made


def feilun(*arguments: str, json_: bool = True) -> Any:
    """What a command prints."""
    done = CliRunner().invoke(app, ["releases", *arguments, *(["--json"] if json_ else [])], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout) if json_ else done.output


def test_a_canary_is_begun_widened_promoted_and_rolled_back(digests: list[str]) -> None:
    begun = feilun("canary", f"reviews@{digests[1][:12]}", "--share", "0.05", "--by", "request")
    assert (begun["release"], begun["share"], begun["sticky"]) == (digests[1], 0.05, "request")
    assert feilun("canary", f"reviews@{digests[1]}", "--share", "0.5")["version"] == 2
    assert [row["roles"] for row in feilun("list")] == [["served"], ["canary"]]
    assert feilun("promote", "reviews:canary", "--reason", "it does well")["release"] == digests[1]
    assert feilun("canary", "reviews", "--end")["release"] is None
    assert feilun("roll-back", "reviews")["release"] == digests[0]
    told = feilun("history", "reviews")
    assert [p["reason"] for p in told["promotions"]] == ["first", "it does well", "rolled back by hand"]
    assert [(c["kind"], c["share"]) for c in told["rollouts"]] == [("canary", 500), ("canary", 5000), ("canary", 0)]
    assert "canary for 50 %" in feilun("history", "reviews", json_=False)


def test_a_shadow_and_what_it_agreed_with(digests: list[str], tmp_path: Path) -> None:
    assert "shadow for 100 %" in feilun("shadow", f"reviews@{digests[1][:12]}", json_=False)
    with Flywheel(tmp_path) as wheel:
        wheel.database.write(lambda c: rollouts.count(c, [Agreement("reviews", digests[0], digests[1], 200, 199)]))
    (found,) = feilun("agreement", "reviews")
    assert (found["compared"], found["agreed"]) == (200, 199)
    assert "99.50 %" in feilun("agreement", json_=False)
    assert "no shadow any more" in feilun("shadow", "reviews", "--end", json_=False)


def test_mistakes_are_said(digests: list[str]) -> None:
    with pytest.raises(SettingError, match="which release"):
        feilun("canary", "reviews", "--share", "0.5")
    with pytest.raises(SettingError, match="answer nobody"):
        feilun("canary", f"reviews@{digests[1]}")
    with pytest.raises(AccessError, match="no one release"):
        feilun("promote", "reviews@00000000")
    with pytest.raises(AccessError, match="no canary"):
        feilun("promote", "reviews:canary")
    with pytest.raises(ConflictError, match="stands for that release"):
        feilun("retire", f"reviews@{digests[0]}")
    assert feilun("retire", f"reviews@{digests[1]}")["retired_at"] is not None
    assert feilun("list")[1]["roles"] == ["retired"]
