"""A gateway as a process of its own, for notebooks, tests and the demo: started, awaited, and stopped in order."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from feilun.errors import UnavailableError

GRACE_S = 30.0  # how long it may take to finish what it began


@dataclass
class Background:
    """A running gateway; use it as a context manager, or call ``stop``."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def stop(self) -> None:
        """SIGTERM: requests in flight are finished first."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(timeout=GRACE_S)

    def __enter__(self) -> Background:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start(project: Path, log: Path, *, port: int = 0, environment: Mapping[str, str] | None = None) -> Background:
    """Run ``feilun serve`` for a project and return when it is ready.

    Args:
        log: where what it prints goes.
        port: 0 takes a free one.

    Raises:
        UnavailableError: it ended, or was not ready within a minute.
    """
    port = port or free_port()
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "feilun", "serve", "--port", str(port), "--project", str(project)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env={**os.environ, **(environment or {})}, stdout=output, stderr=subprocess.STDOUT
        )
    running = Background(f"http://127.0.0.1:{port}", process, log)
    try:
        _wait(running)
    except BaseException:
        running.stop()
        raise
    return running


def free_port() -> int:
    """A loopback port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(running: Background, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and running.process.poll() is None:
        try:
            if httpx.get(f"{running.url}/readyz", timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    last = running.log.read_text("utf-8", errors="replace").strip().splitlines()[-3:]
    raise UnavailableError("the gateway did not become ready", where=str(running.log), hint=" / ".join(last) or None)
