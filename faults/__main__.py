"""``python -m faults``: run the cases, write build/faults/*.json, print one table.

python -m faults                        every case on SQLite and PostgreSQL
python -m faults --only 1 --kills 40    one case
python -m faults --quick                a few trials of each
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import faults.adapters  # each enters its cases
import faults.clocks
import faults.crashes
import faults.limits
import faults.outages
import faults.payments
import faults.releases
import faults.repeats
import faults.storage
import faults.streams
import faults.workers  # noqa: F401
from faults import postgres
from faults.counting import CASES, DATABASES, Case, Setup, result
from faults.nursery import ROOT, Nursery

SEED = 20261122
KILLS = 500


def main() -> int:
    """Exit code 1 where something did not survive or a planted bug was not caught."""
    told = _told()
    chosen = sorted((c for c in CASES if not told.only or c.number in told.only), key=lambda c: c.number)
    out = told.out
    out.mkdir(parents=True, exist_ok=True)
    results = []
    with contextlib.ExitStack() as stack:
        nursery = stack.enter_context(Nursery())
        server = stack.enter_context(postgres.server()) if "postgresql" in told.database else None
        for one in chosen:
            for database in (d for d in told.database if d in one.databases):
                own = server if database == "postgresql" else None
                setup = Setup(database, own, nursery, told.seed, told.kills, told.quick)
                results.append(_run(one, setup, out))
    if told.json:
        print(json.dumps(results, indent=1))
    else:
        _show(results)
    return 0 if all(_good(r) for r in results) else 1


def _run(one: Case, setup: Setup, out: Path) -> dict[str, Any]:
    begun = time.monotonic()
    done = result(one, setup, one.run(setup), time.monotonic() - begun)
    name = one.run.__name__.replace("_", "-")  # a number can have several cases
    (out / f"{one.number:02d}-{name}-{setup.database}.json").write_text(json.dumps(done, indent=1) + "\n")
    said = f"{done['survived']} of {done['tried']}" if done["tried"] else "not tried"
    print(f"case {one.number:2d} {setup.database:10s} {said}, {done['seconds']} s", file=sys.stderr, flush=True)
    return done


def _good(done: dict[str, Any]) -> bool:
    return done["tried"] == done["survived"] and done["control_caught"] is not False and not done["failures"]


def _show(results: list[dict[str, Any]]) -> None:
    table = Table("case", "what", "database", "tried", "survived", "control", "seconds", title="faults")
    for r in results:
        caught = {None: "-", True: "caught", False: "MISSED"}[r["control_caught"]]
        survived = "-" if not r["tried"] else str(r["survived"])
        colour = "" if _good(r) else "red"
        row = (str(r["case"]), r["what"], r["database"], str(r["tried"] or "-"), survived, caught, str(r["seconds"]))
        table.add_row(*row, style=colour)
    console = Console()
    console.print(table)
    for r in results:
        for words in [*r["failures"][:3], *(r["notes"] if not r["tried"] else [])]:
            console.print(f"  case {r['case']} {r['database']}: {words}", markup=False, highlight=False)


def _told() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m faults", description="What is promised under faults, tried.")
    parser.add_argument("--only", type=int, action="append", metavar="CASE", help="this case (may be repeated)")
    parser.add_argument("--database", action="append", choices=DATABASES, help="only this one")
    parser.add_argument("--quick", action="store_true", help="a few trials of each")
    parser.add_argument("--kills", type=int, help=f"of the gateway, for each database ({KILLS})")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "faults")
    told = parser.parse_args()
    told.database = told.database or list(DATABASES)
    told.kills = told.kills if told.kills is not None else (10 if told.quick else KILLS)
    return told


if __name__ == "__main__":
    sys.exit(main())
