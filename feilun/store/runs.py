"""What was run: every attempt of every step, with its settings, its cost and its outcome."""

from __future__ import annotations

import json
import platform
import sys
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from sqlalchemy import func, insert, select
from ulid import ULID

from feilun.store import tables
from feilun.store.artifacts import canonical
from feilun.store.database import Database, now_us

FINISHED = "finished"


@dataclass(frozen=True)
class Run:
    """One attempt of one step. Times are nanoseconds; ``core_ns`` counts every thread."""

    fingerprint: str
    step: str
    version: int
    name: str
    settings: dict[str, Any]
    inputs: dict[str, Any]
    metrics: dict[str, Any]
    core_ns: int
    wall_ns: int
    outcome: str
    error: str | None = None
    output: str | None = None


def record(database: Database, run: Run) -> str:
    """Store one attempt and return its id."""
    identity = str(ULID())
    texts = {
        "settings": canonical(run.settings).decode(),
        "inputs": canonical(run.inputs).decode(),
        "metrics": canonical(run.metrics).decode(),
        "environment": canonical(environment()).decode(),
    }

    def write(connection: Any) -> None:
        now = now_us(connection)
        row = {
            **texts,
            "id": identity,
            "fingerprint": run.fingerprint,
            "step": run.step,
            "version": run.version,
            "name": run.name,
            "core_ns": run.core_ns,
            "wall_ns": run.wall_ns,
            "outcome": run.outcome,
            "error": run.error,
            "output": run.output,
            "started_at": now - run.wall_ns // 1000,
            "finished_at": now,
        }
        connection.execute(insert(tables.runs).values(row))

    database.write(write)
    return identity


@dataclass(frozen=True)
class Made:
    """What a fingerprint gave when it last finished; ``core_ns`` is the cost of all attempts, failed ones too."""

    output: str
    core_ns: int
    wall_ns: int
    metrics: dict[str, Any]


def made(database: Database, fingerprint: str) -> Made | None:
    """The newest finished attempt of this fingerprint."""
    columns = tables.runs.c
    query = (
        select(columns.output, columns.wall_ns, columns.metrics)
        .where(columns.fingerprint == fingerprint, columns.outcome == FINISHED)
        .order_by(columns.finished_at.desc())
        .limit(1)
    )
    spent = select(func.sum(columns.core_ns)).where(columns.fingerprint == fingerprint)
    with database.read() as connection:
        row = connection.execute(query).first()
        core_ns = int(connection.execute(spent).scalar() or 0)
    return Made(row.output, core_ns, row.wall_ns, json.loads(row.metrics)) if row else None


def newest(database: Database, *, limit: int = 20) -> list[dict[str, Any]]:
    """The last attempts, newest first, as plain values."""
    with database.read() as connection:
        found = connection.execute(select(tables.runs).order_by(tables.runs.c.finished_at.desc()).limit(limit))
        rows = [dict(row) for row in found.mappings()]
    return [row | {"metrics": json.loads(row["metrics"]), "settings": json.loads(row["settings"])} for row in rows]


def environment() -> dict[str, str]:
    """What could change a result although no setting did."""
    packages = ("feilun", "torch", "transformers", "tokenizers", "openvino", "nncf", "polars", "numpy")
    return {
        "python": sys.version.split()[0],
        "machine": platform.machine(),
        **{package: version(package) for package in packages},
    }
