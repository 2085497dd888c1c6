"""A process that runs beside the gateway for as long as that runs: started again where it ends by itself."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import threading
from collections.abc import Iterator, Sequence

from feilun.serve.logs import note

PAUSE_S = 5.0  # before it is started again
GRACE_S = 20.0  # how long it may take to put away what it does


@contextlib.contextmanager
def beside(command: Sequence[str] | None, *, pause_s: float = PAUSE_S) -> Iterator[None]:
    """Keep ``command`` running while the context is open; nothing where there is none."""
    if command is None:
        yield
        return
    stop = threading.Event()
    thread = threading.Thread(target=_keep, args=(command, stop, pause_s), name="feilun-beside")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _keep(command: Sequence[str], stop: threading.Event, pause_s: float) -> None:
    while not stop.is_set():
        process = subprocess.Popen(command)
        while process.poll() is None and not stop.wait(0.5):
            pass
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()  # what it was doing goes on elsewhere, from its last checkpoint
                process.wait()
        elif not stop.wait(pause_s):
            note(logging.WARNING, "worker-started-again", code=f"exit {process.returncode}")
