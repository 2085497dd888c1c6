"""Several gateways behind one socket: ``feilun serve --workers N``.

The supervisor opens the socket and nothing else: no database, no model. Each worker is the same command again, with the
socket handed over, so whichever is free accepts the next connection. One that ends is replaced; when the supervisor
itself dies, even by kill -9, a pipe that only it holds open closes, and the workers stop as if told to.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import FrameType

from feilun.serve import listening, logs

NUMBER, FOLDER, LIFE = "FEILUN_WORKER", "FEILUN_WORKERS_FOLDER", "FEILUN_LIFE_FD"
SETTLED_S = 5.0  # a worker that ends younger than this did not get anywhere
ATTEMPTS = 3  # that get nowhere, before the first worker ever settled: then it is no use
LONGEST_PAUSE_S = 10.0  # before a worker that keeps ending is started again
TICK_S = 0.1
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass
class _Place:
    """One of the workers, whichever process it is at the moment."""

    number: int
    process: subprocess.Popen[bytes] | None = None
    began: float = 0.0
    failures: int = 0  # in a row
    next_try: float = 0.0


class Supervisor:
    """Keeps ``workers`` processes of one command alive.

    Args:
        command: what each runs; it must call ``run_gateway``, which finds the socket by its environment.
        grace_s: how long they may take to end after SIGTERM.
        renews: whether SIGHUP means to read certificates again, and not to end.
    """

    def __init__(
        self, command: Sequence[str], workers: int, listener: socket.socket, *, grace_s: float, renews: bool = False
    ) -> None:
        self._command = list(command)
        self._places = [_Place(number) for number in range(1, workers + 1)]
        self._listener = listener
        self._grace_s = grace_s
        self._renews = renews
        self._told: list[int] = []  # signals that came and are not yet passed on
        self._settled = False  # whether any worker ever got somewhere

    def run(self) -> int:
        """Work until SIGTERM or SIGINT, or until it is clear that no worker can start; returns the exit code."""
        with _pipe() as (reading, _), tempfile.TemporaryDirectory(prefix="feilun-workers-") as folder:
            self._environment = {FOLDER: folder, LIFE: str(reading), listening.FD: str(self._listener.fileno())}
            self._handed = (reading, self._listener.fileno())
            with self._hearing() as woken:
                while not self._is_over():
                    hopeless = self._look_after()
                    if hopeless is not None:
                        self._stop()
                        return hopeless
                    select.select([woken], [], [], TICK_S)
                    with contextlib.suppress(BlockingIOError):
                        os.read(woken, 64)
            return self._stop()

    def _look_after(self) -> int | None:
        """Start what is not running; the exit code of the whole where starting is of no use."""
        now = time.monotonic()
        for place in self._places:
            if place.process is not None:
                code = place.process.poll()
                self._settled |= now - place.began > SETTLED_S
                if code is None:
                    continue
                place.failures = 0 if now - place.began > SETTLED_S else place.failures + 1
                place.process = None
                pause = 0.0 if not place.failures else min(LONGEST_PAUSE_S, 0.1 * 2**place.failures)
                place.next_try = now + pause
                logs.note(logging.ERROR, "worker-ended", worker=place.number, status=code)
                if not self._settled and place.failures >= ATTEMPTS:
                    return code if code > 0 else 1
            if place.process is None and now >= place.next_try:
                self._start(place)
        return None

    def _start(self, place: _Place) -> None:
        place.began = time.monotonic()
        place.process = subprocess.Popen(
            self._command,
            env={**os.environ, **self._environment, NUMBER: str(place.number)},
            pass_fds=self._handed,
            start_new_session=True,  # Ctrl-C is for the supervisor, which tells them once
        )

    def _is_over(self) -> bool:
        """Pass signals on; whether one of them means the end."""
        told, self._told = self._told, []
        if self._renews and signal.SIGHUP in told:
            self._tell(signal.SIGHUP)
            told = [number for number in told if number != signal.SIGHUP]
        return bool(told)

    def _stop(self) -> int:
        """Tell all to end, and wait; 0 where each did so in order."""
        self._listener.close()
        self._tell(signal.SIGTERM)
        end = time.monotonic() + self._grace_s
        codes = []
        for place in self._places:
            if place.process is None:
                continue
            try:
                codes.append(place.process.wait(max(0.1, end - time.monotonic())))
            except subprocess.TimeoutExpired:
                place.process.kill()
                codes.append(place.process.wait())
        # One that was only starting has nothing to finish: the signal itself ends it.
        return 0 if set(codes) <= {0, -signal.SIGTERM} else 1

    def _tell(self, number: int) -> None:
        for place in self._places:
            if place.process is not None and place.process.poll() is None:
                place.process.send_signal(number)

    @contextlib.contextmanager
    def _hearing(self) -> Iterator[int]:
        """Note signals while the context is open; gives what becomes readable when one comes."""
        with _pipe() as (woken, waking):
            os.set_blocking(woken, False)
            os.set_blocking(waking, False)

            def note(number: int, frame: FrameType | None) -> None:
                self._told.append(number)
                with contextlib.suppress(BlockingIOError):
                    os.write(waking, b"!")

            before = {number: signal.signal(number, note) for number in _SIGNALS}
            try:
                yield woken
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)


def follow_supervisor() -> None:
    """In a worker: end in order when the supervisor is gone. Does nothing where there is none."""
    life = os.environ.pop(LIFE, None)
    if life is not None:
        threading.Thread(target=_outlive_nobody, args=(int(life),), name="feilun-supervisor", daemon=True).start()


def _outlive_nobody(life: int) -> None:
    with contextlib.suppress(OSError):
        os.read(life, 1)  # nothing is ever written: it returns when the other end is closed
    os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)
