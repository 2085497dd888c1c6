"""What this process uses of its machine, and what for: answering, loading releases, and the rest.

Processor time is counted thread by thread (Linux: each has a clock of its own), so a request is charged for the engine
and not for what the gateway happened to do beside it. While the engine runs, its time is that of the thread that called
it and of the threads that OpenVINO keeps (``feilun.models.threads``). Where several runs go side by side, or a release
is loaded meanwhile, the latter are shared by how long each caller waited for them: each stream has a thread, and who
computes in its own thread (hashes a file, say) has none at work. Where threads have no clocks that others can read, it
is the time of the whole process while the engine runs.

Every few seconds, and at the end, the time since the last row is appended to ``gateways``; a process that is killed
loses at most that much. What it used before it could count, its start, is in its first row.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import platform
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
from ulid import ULID

from feilun.errors import UnavailableError
from feilun.models.threads import ENGINE
from feilun.store import gateways
from feilun.store.database import Database

_TASKS = Path("/proc/self/task")
_AT_WORK = 20  # who is at work in its own thread counts for a 20th of who waits: it may have helpers too
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


@dataclass(eq=False)
class Work:
    """One run of the engine, or one load: the processor time that it has used so far."""

    loads: bool
    clock: int  # of the thread that does it
    seen: int
    ns: int = 0


class Spending:
    """The processor time of this process, divided."""

    def __init__(self) -> None:
        self.gateway = str(ULID())
        self.engine_ns = 0
        self.load_ns = 0
        self._lock = threading.Lock()
        self._works: list[Work] = []
        self._natives = _Natives()
        self._settled = time.monotonic_ns()
        self._sequence = 0
        self._waiting: gateways.Sample | None = None  # a row that is not known to be written
        self._told = (time.monotonic_ns() - _age_ns(), 0, 0, 0)

    @contextlib.contextmanager
    def work(self, *, loads: bool = False) -> Iterator[Work]:
        """Count what the calling thread does, and the engine's threads for it; ``ns`` is complete at the end."""
        clock = _own_clock()
        with self._lock:
            self._settle()
            work = Work(loads, clock, time.clock_gettime_ns(clock))
            self._works.append(work)
        try:
            yield work
        finally:
            with self._lock:
                self._settle()
                self._works.remove(work)

    def _settle(self) -> None:
        """Give what was used since the last time to what was going on since then."""
        natives = self._natives.used()
        now_ns = time.monotonic_ns()
        elapsed, self._settled = now_ns - self._settled, now_ns
        own = []
        for work in self._works:
            now = time.clock_gettime_ns(work.clock)
            own.append(now - work.seen)
            work.seen = now
        waits = [max(0, elapsed - used) + used // _AT_WORK for used in own]
        total = sum(waits)
        passed = given = 0
        for i, work in enumerate(self._works):
            passed += waits[i]
            upto = natives * passed // total if total else natives
            work.ns += own[i] + upto - given
            if work.loads:
                self.load_ns += own[i] + upto - given
            else:
                self.engine_ns += own[i] + upto - given
            given = upto

    def sample(self) -> gateways.Sample:
        """What was used since the last row that is known to be written."""
        if self._waiting is None:
            with self._lock:
                self._settle()
                now = (time.monotonic_ns(), time.process_time_ns(), self.engine_ns, self.load_ns)
            wall, core, engine, load = (new - old for new, old in zip(now, self._told, strict=True))
            self._told = now
            self._sequence += 1
            self._waiting = gateways.Sample(
                gateway=self.gateway,
                sequence=self._sequence,
                machine=platform.node()[:64],
                cores=cores(),
                wall_ns=wall,
                core_ns=core,
                engine_ns=engine,
                load_ns=load,
            )
        return self._waiting

    async def follow(self, database: Database, every_s: float) -> None:
        """Append a row every so often, for ever."""
        while True:
            await asyncio.sleep(every_s)
            with contextlib.suppress(UnavailableError):  # the same row is tried again; the next has what came meanwhile
                row = self.sample()
                await asyncio.wrap_future(database.submit(partial(gateways.append, sample=row)))
                self._waiting = None

    def finish(self, database: Database) -> None:
        """Append what is left, at the end of the process; nothing if the database is away."""
        with contextlib.suppress(UnavailableError):
            for _ in range(1 + (self._waiting is not None)):
                row = self.sample()
                database.write(partial(gateways.append, sample=row))
                self._waiting = None


class _Natives:
    """The threads that the engine keeps: named as the engine is, and not Python's."""

    def __init__(self) -> None:
        self._folder = os.open(_TASKS, os.O_RDONLY) if _own_clock() != time.CLOCK_PROCESS_CPUTIME_ID else None
        self._links = -1
        self._seen: dict[int, int] = {}  # clock -> its last reading
        self.used()

    def __del__(self) -> None:
        if self._folder is not None:
            os.close(self._folder)

    def used(self) -> int:
        """Nanoseconds of all of them since the last call."""
        if self._folder is None:
            return 0
        links = os.fstat(self._folder).st_nlink  # changes with the number of threads
        if links != self._links:
            self._links = links
            self._look()
        used = 0
        for clock, before in list(self._seen.items()):
            try:
                now = time.clock_gettime_ns(clock)
            except OSError:  # it has ended
                del self._seen[clock]
                continue
            used += now - before
            self._seen[clock] = now
        return used

    def _look(self) -> None:
        pythons = {thread.native_id for thread in threading.enumerate()}
        found = set()
        for task in _TASKS.iterdir():
            with contextlib.suppress(OSError):  # it has ended
                if int(task.name) not in pythons and (task / "comm").read_text("utf-8").rstrip("\n") == ENGINE:
                    found.add(_clock_of(int(task.name)))
        self._seen = {clock: self._seen.get(clock, 0) for clock in found}


def _own_clock() -> int:
    """The calling thread's processor time, as a clock that every thread can read; else the whole process's."""
    if _TASKS.is_dir() and hasattr(time, "pthread_getcpuclockid"):
        return time.pthread_getcpuclockid(threading.get_ident())
    return time.CLOCK_PROCESS_CPUTIME_ID


def _clock_of(thread: int) -> int:
    """The clock of a thread by the kernel's number for it: Linux's MAKE_THREAD_CPUCLOCK(tid, CPUCLOCK_SCHED)."""
    return (~thread << 3) | 6


def _age_ns() -> int:
    """How long ago this process began: on Linux to a tick of 10 ms, elsewhere to a second."""
    try:
        fields = Path("/proc/self/stat").read_text("utf-8").rpartition(")")[2].split()  # from the third field on
    except OSError:
        return max(0, int((time.time() - psutil.Process().create_time()) * 10**9))
    began_ns = int(fields[19]) * 10**9 // os.sysconf("SC_CLK_TCK")  # after the machine's start
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) - began_ns


def cores() -> int:
    """Processor cores that this process may use: by its affinity, and by its container's quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, _, period = _QUOTA.read_text("ascii").partition(" ")
        return min(allowed, max(1, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no container, or "max"
        return allowed
