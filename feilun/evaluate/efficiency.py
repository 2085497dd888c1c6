"""What an answer costs on this machine: time, memory, energy."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from feilun.evaluate.asking import Asked

ALONE = 200  # rows that are asked one by one, at the most
SECONDS = 20.0  # after which no more of them are
RAPL = Path("/sys/class/powercap")


def measure(asked: Asked) -> dict[str, Any]:
    """Latency of rows asked one by one (milliseconds), rows a second asked together, bytes, and joules where known.

    These are times of this machine and of this moment: unlike every other figure they differ from run to run.
    """
    import psutil

    few = asked.frame.head(ALONE)
    asked.task.answer(asked.engine, few.head(1))  # the first one compiles and fills caches
    waits = []
    begun = time.perf_counter()
    for i in range(few.height):
        start = time.perf_counter()
        asked.task.answer(asked.engine, few[i])
        waits.append(1000 * (time.perf_counter() - start))
        if time.perf_counter() - begun > SECONDS:
            break
    many = asked.frame.head(2000)
    joules, start = energy(), time.perf_counter()
    asked.task.answer(asked.engine, many)
    seconds, spent = time.perf_counter() - start, energy()
    p50, p99 = np.percentile(waits, [50, 99])
    return {
        "latency_ms": {"p50": float(p50), "p99": float(p99), "n": len(waits)},
        "rows_s": many.height / seconds,
        "model_bytes": sum(f.stat().st_size for f in asked.model.path.rglob("*") if f.is_file()),
        "process_bytes": psutil.Process().memory_info().rss,
        "joules_per_1000_rows": _spent(joules, spent, many.height),
        "cores": os.cpu_count(),
        "format": asked.model.facts.get("format"),
    }


def energy(root: Path = RAPL) -> dict[str, tuple[float, float]] | None:
    """What each processor package has used (joules), and where its counter begins anew; None where nothing says.

    The counters are Intel's RAPL as Linux shows them; most virtual machines have none, and some let only root read.
    """
    found = {}
    for zone in sorted(root.glob("intel-rapl:[0-9]*")):
        if zone.name.count(":") != 1:
            continue  # a part of a package, which the package counts too
        try:
            used, most = (int((zone / name).read_text()) / 1e6 for name in ("energy_uj", "max_energy_range_uj"))
        except (OSError, ValueError):
            return None
        found[zone.name] = (used, most)
    return found or None


def _spent(before: Any, after: Any, rows: int) -> float | None:
    if before is None or after is None:
        return None
    joules = sum((after[zone][0] - used) % most for zone, (used, most) in before.items())
    return float(1000 * joules / rows)
