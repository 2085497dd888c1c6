"""What this installation is made of, what the machine can do, and what is missing."""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement

from feilun.errors import FeilunError
from feilun.store import deployment
from feilun.store.database import WAL_IS_SAFE
from feilun.store.migrations import open_database

LEAST_DISK = 3 * 2**30  # the demo's weights, data and artefacts, with room


class Check(NamedTuple):
    """One thing looked at; ``mend`` is a command or a sentence, where something can be done."""

    what: str
    good: bool
    found: str
    mend: str | None = None


def examine(root: Path) -> list[Check]:
    """Look at everything; nothing is changed."""
    return [
        _python(),
        *_packages(),
        _processor(),
        _training(),
        _memory(),
        _disk(root),
        _sqlite(),
        _secret(root),
        _database(root),
    ]


def _python() -> Check:
    found = sys.version.split()[0]
    return Check("Python", sys.version_info >= (3, 11), found, "install Python 3.11 or newer")


def _packages() -> list[Check]:
    checks = []
    for line in requires("feilun") or []:
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(wanted.name)
        except PackageNotFoundError:
            checks.append(Check(wanted.name, False, "missing", f"pip install '{wanted}'"))
            continue
        good = wanted.specifier.contains(found, prereleases=True)
        checks.append(Check(wanted.name, good, found, None if good else f"pip install '{wanted}'"))
    return checks


def _processor() -> Check:
    flags = _processor_flags()
    fast = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8") if flag in flags]
    cores = os.cpu_count() or 1
    return Check("processor", True, f"{platform.machine()}, {cores} cores, {' '.join(fast) or 'no known features'}")


def _training() -> Check:
    """What ``device`` and ``precision`` "auto" of a training mean here, and why."""
    try:
        from feilun.training import machine
        from feilun.training.settings import FitSettings
    except ImportError as error:
        return Check("training", False, f"torch cannot be loaded: {error}", "see the packages above")
    device = machine.device(FitSettings())
    return Check("training", True, f"on {device}, in {machine.why(device)}")


def _processor_flags() -> set[str]:
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8")
    except FileNotFoundError:
        return set()
    line = next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "")
    return set(line.partition(":")[2].split())


def _memory() -> Check:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Check("memory", total >= 4 * 2**30, f"{total / 2**30:.1f} GiB", "the demo needs 4 GiB")


def _disk(root: Path) -> Check:
    free = shutil.disk_usage(next(p for p in (root.resolve(), *root.resolve().parents) if p.exists())).free
    return Check(
        "disk", free >= LEAST_DISK, f"{free / 2**30:.0f} GiB free", "free some: rm -r .feilun/artifacts/scratch"
    )


def _sqlite() -> Check:
    journal = (
        "WAL" if WAL_IS_SAFE else "rollback journal, as WAL below 3.51.3 can corrupt a database that several write"
    )
    return Check("SQLite", True, f"{sqlite3.sqlite_version}: {journal}")


def _secret(root: Path) -> Check:
    try:
        deployment.from_environment(root).required_pepper()
    except FeilunError as error:
        return Check("secret", False, error.what, error.hint)
    return Check("secret", True, "set")


def _database(root: Path) -> Check:
    installed = deployment.from_environment(root)
    kind = installed.database_url.partition(":")[0]
    if kind == "sqlite" and not (installed.home / "feilun.db").exists():
        return Check("database", True, "SQLite, made by the first command that needs it")
    try:
        with open_database(installed.database_url):
            return Check("database", True, f"{kind}: reached, its tables are up to date")
    except FeilunError as error:
        return Check("database", False, error.what, error.hint)
