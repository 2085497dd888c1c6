"""The benchmarks still run: small, with nothing expected of their speed; what they prove of exactness is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.bench import Bench, Row, Run, alternate, row
from benchmarks.bill import bench as bill


def test_every_figure_of_billing_can_be_measured(
    postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", postgres)
    events = ("ingest", "growth-sqlite", "growth-postgresql", "sub-cent")
    rows = {found.id: found for found in bill.measure(events, quick=True, out=tmp_path)}
    for kind in ("sqlite", "postgresql"):
        assert rows[f"sub-cent-{kind}"].value == 0
        assert rows[f"ingest-{kind}"].value > 0
        assert rows[f"month-{kind}"].value > 0
    report = json.loads((tmp_path / "bill.json").read_text())
    assert {r["id"] for r in report["rows"]} == set(rows)
    assert report["machine"]["cores"] >= 1
    assert report["versions"]["postgresql"]
    assert {"sqlite", "postgresql"} == set(report["curves"]["seconds by events recorded"])
    assert list(tmp_path.glob("*.svg"))


def test_a_row_says_whether_its_target_is_met() -> None:
    assert row("a", "", "s", [3.0, 1.0, 2.0], target=2, at_most=True).met
    assert not row("a", "", "s", [3.0, 1.0, 2.0], target=1.5, at_most=True).met
    assert row("a", "", "1/s", [4.0], target=2, peer=("other", [2.0])) == Row(
        "a", "", 4.0, "1/s", "other", 2.0, 2.0, 2, True, [4.0], 0.0
    )


def test_runs_alternate() -> None:
    order: list[str] = []

    def ran(name: str) -> float:
        order.append(name)
        return float(len(order))

    assert alternate(lambda: ran("a"), lambda: ran("b"), 3) == ([1.0, 4.0, 5.0], [2.0, 3.0, 6.0])
    assert order == ["a", "b", "b", "a", "a", "b"]


def test_what_is_not_measured_again_stays(tmp_path: Path) -> None:
    made = Bench("made")

    @made.figure("one")
    def one(run: Run) -> Iterator[Row]:
        yield row("one", "", "", [1.0])

    @made.figure("two")
    def two(run: Run) -> Iterator[Row]:
        yield row("two", "", "", [2.0 + run.size(0, 1)])

    made.measure(out=tmp_path)
    made.measure(["two"], out=tmp_path)
    rows = json.loads((tmp_path / "made.json").read_text())["rows"]
    assert [(r["id"], r["value"]) for r in rows] == [("one", 1.0), ("two", 2.0)]
    made.measure(["two"], quick=True, out=tmp_path)
    rows = json.loads((tmp_path / "made.json").read_text())["rows"]
    assert [(r["id"], r["value"]) for r in rows] == [("two", 3.0)]
