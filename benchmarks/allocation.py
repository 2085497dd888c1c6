"""Does the allocation close? What a gateway wrote down of itself, against what the kernel says that it used.

The kernel's figures are those of /proc/<pid>/stat: user and system time of all threads since the process began, in
ticks of 10 ms. They are read all the time while the process stops, so that one of them is of the moment of the last row
that it wrote; what it uses after that, to end, is told beside them. The engine's threads are read from
/proc/<pid>/task/<tid>/schedstat, in nanoseconds, before the load and after it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from benchmarks import shop as shops
from feilun.bill.costs import Measured
from feilun.bill.margin import Query, report
from feilun.bill.settings import BillSettings
from feilun.models.threads import ENGINE
from feilun.store import tables
from feilun.store.database import Database
from feilun.store.migrations import open_database

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Reading:
    """What the kernel says of a process at one moment."""

    at_us: int  # since 1970
    core_ns: int
    wall_ns: int  # since it began


@dataclass(frozen=True)
class Closing:
    """Both sides in core-nanoseconds, and how far they are apart, as shares of what the kernel says."""

    requests: int
    measured: Measured
    core_ns: int  # by the kernel, until the last row
    offered_ns: int  # wall time until then, by cores
    ending_ns: int  # processor time after the last row

    @property
    def used_apart(self) -> float:
        """Of requests, overhead and loads together from the processor time."""
        m = self.measured
        return abs(m.requests_ns + m.overhead_ns + m.loads_ns - self.core_ns) / self.core_ns

    @property
    def offered_apart(self) -> float:
        """Of these and idle time together from the wall time by cores."""
        m = self.measured
        together = m.requests_ns + m.overhead_ns + m.loads_ns + m.idle_ns
        return abs(together - self.offered_ns) / self.offered_ns

    def as_dict(self) -> dict[str, Any]:
        """Plain values; times in nanoseconds."""
        told = {"requests": self.requests, "used_apart": self.used_apart, "offered_apart": self.offered_apart}
        told |= {"kernel_core_ns": self.core_ns, "kernel_offered_ns": self.offered_ns}
        return told | {"kernel_ending_ns": self.ending_ns} | asdict(self.measured)


def stop(process: subprocess.Popen[bytes], timeout_s: float = 30.0) -> list[Reading]:
    """SIGTERM, and what the kernel says until the process has ended."""
    process.send_signal(signal.SIGTERM)
    end = time.monotonic() + timeout_s
    readings = []
    while True:
        fields = _fields(process.pid)
        at_us, boot_ns = time.time_ns() // 1000, time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        used, began = int(fields[11]) + int(fields[12]), int(fields[19])
        readings.append(Reading(at_us, used * 10**9 // TICKS, boot_ns - began * 10**9 // TICKS))
        if fields[0] == "Z":  # ended, and kept by the kernel until somebody waits for it
            process.wait()
            return readings
        if time.monotonic() > end:
            raise TimeoutError(f"process {process.pid} did not end")
        time.sleep(0.002)


def engine_ns(pid: int) -> int:
    """Processor time of the engine's threads so far, by their names."""
    found = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        if (task / "comm").read_text("utf-8").strip() == ENGINE:
            found += int((task / "schedstat").read_text("ascii").split()[0])
    return found


def _fields(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat from the third on, its state: the second can hold anything."""
    return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()


def closing(database: Database, readings: list[Reading]) -> Closing:
    """What the books say of all that was ever used there, beside what the kernel says of the one gateway that ran."""
    found = report(database, BillSettings(), Query())
    with database.read() as connection:
        last = connection.execute(select(func.max(tables.gateways.c.at))).scalar_one()
    then = min(readings, key=lambda reading: abs(reading.at_us - last))
    offered = then.wall_ns * len(os.sched_getaffinity(0))
    return Closing(found.total.requests, found.measured, then.core_ns, offered, readings[-1].core_ns - then.core_ns)


def allocation(seconds: float = 20.0, clients: int = 16, *, url: str | None = None, inputs: int = 1) -> dict[str, Any]:
    """One gateway with MiniLM under load for some seconds and without for half as many: figures of ``Closing``,
    and how far the requests' share of the engine is from what the kernel says that its threads used.

    Args:
        seconds: of load.
        clients: connections that ask one request after the other.
        url: an empty database; SQLite in a temporary folder by default.
        inputs: sentences in each request.
    """
    with tempfile.TemporaryDirectory(prefix="feilun-bench-") as place:
        chosen = url or f"sqlite:///{place}/ledger.db"
        shop = shops.build(chosen, Path(place))
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = int(taken.getsockname()[1])
        told = {"url": chosen, "artifacts": str(shop.artifacts), "port": port, "metering": True}
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.shop", json.dumps(told)], stderr=subprocess.DEVNULL
        )
        try:
            shops._wait(f"http://127.0.0.1:{port}/readyz")
            before = engine_ns(process.pid)
            asyncio.run(shops.load(f"http://127.0.0.1:{port}", shop, seconds=seconds, clients=clients, inputs=inputs))
            engine = engine_ns(process.pid) - before
            time.sleep(seconds / 2)
            readings = stop(process)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        with open_database(chosen) as database:
            found = closing(database, readings)
        apart = abs(found.measured.requests_ns - engine) / engine
        return found.as_dict() | {"kernel_engine_ns": engine, "engine_apart": apart}


if __name__ == "__main__":
    print(json.dumps(allocation(float(sys.argv[1]) if len(sys.argv) > 1 else 20.0), indent=2))
