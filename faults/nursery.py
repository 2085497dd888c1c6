"""Gateways by fork: one process imports everything once, and each gateway is a fork of it.

Of the second that a gateway takes to start, three quarters are imports. A fork skips these and nothing else: the child
opens the database, verifies and loads the release, answers the probes and listens, as any gateway does.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).absolute().parents[1]
_PR_SET_PDEATHSIG = 1


class Child:
    """A forked gateway; what of ``subprocess.Popen`` is needed."""

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self._nursery = nursery
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, negative for a signal, or None."""
        self.returncode = self._nursery.exits.get(self.pid)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal; nothing happens where it is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self, timeout: float = 60.0) -> int:
        """Wait for its end."""
        end = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("gateway", timeout)
            time.sleep(0.005)
        return code


class Nursery:
    """The process that forks gateways. ``environment`` is that of all its children: a preloaded library, say."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self.exits: dict[int, int] = {}
        self._born: list[int] = []
        self._news = threading.Condition()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "faults.nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._lock = threading.Lock()

    def fork(self, told: Mapping[str, Any], log: Path, environment: Mapping[str, str] | None = None) -> Child:
        """Start a gateway; ``told`` is as for ``faults.gateway``."""
        order = {"told": told, "log": str(log), "environment": dict(environment or {})}
        with self._lock:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
            with self._news:
                if not self._news.wait_for(lambda: self._born, timeout=30):
                    raise RuntimeError("the nursery does not answer")
                return Child(self, self._born.pop())

    def close(self) -> None:
        """End the nursery, and with it every child."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            word, *numbers = line.split()
            with self._news:
                if word == b"born":
                    self._born.append(int(numbers[0]))
                else:
                    self.exits[int(numbers[0])] = int(numbers[1])
                self._news.notify_all()


def main() -> None:
    """Read orders from standard input, tell births and deaths on standard output."""
    import feilun.models.openvino  # noqa: F401 - what a gateway imports when it loads its release
    from faults import gateway

    waiting = b""
    while True:
        if select.select([0], [], [], 0.01)[0]:
            read = os.read(0, 1 << 16)
            if not read:
                return
            *orders, waiting = (waiting + read).split(b"\n")
            for order in orders:
                _fork(json.loads(order), gateway.run)
        _tell_deaths()


def _tell_deaths() -> None:
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            os.write(1, f"died {pid} {os.waitstatus_to_exitcode(status)}\n".encode())


def _fork(order: Mapping[str, Any], run: Any) -> None:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        os.write(1, f"born {pid}\n".encode())
        return
    code = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.update(order["environment"])
        run(order["told"])
        code = 0
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else 1
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
