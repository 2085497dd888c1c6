"""Names of the operating system's threads, by which a process can tell whose processor time is whose.

On Linux a thread has a name of at most 15 bytes, and a thread that it starts begins with the same one. So the threads
that a library keeps to itself are known, however it starts them, by the name of the thread that called it first.
Elsewhere nothing is named.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

ENGINE = "feilun-engine"
_OWN = Path("/proc/thread-self/comm")


def rename(name: str) -> None:
    """Name the calling thread."""
    with contextlib.suppress(OSError):  # not Linux, or no /proc: then nobody looks for names either
        _OWN.write_text(name, "utf-8")


@contextlib.contextmanager
def named(name: str) -> Iterator[None]:
    """Name the calling thread meanwhile, and so every thread that is started from it."""
    try:
        before = _OWN.read_text("utf-8").removesuffix("\n")
    except OSError:
        yield
        return
    rename(name)
    try:
        yield
    finally:
        rename(before)
