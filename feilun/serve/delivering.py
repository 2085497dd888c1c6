"""A thread that lets the office send what its outbox has due, for as long as the gateway runs."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator

from feilun.errors import FeilunError
from feilun.serve import logs
from feilun.serve.office import Office

PAUSE_S = 1.0
FAREWELL_S = 3.0  # how long the end waits for what is being sent; what is not noted by then is sent again later


@contextlib.contextmanager
def delivering(office: Office | None, *, pause_s: float = PAUSE_S, farewell_s: float = FAREWELL_S) -> Iterator[None]:
    """Deliver every ``pause_s`` seconds while the context is open; nothing that goes wrong there ends it."""
    if office is None:
        yield
        return
    stop = threading.Event()
    # A daemon: a gateway that is told to stop does not wait for a slow receiver.
    thread = threading.Thread(target=_forever, args=(office, stop, pause_s), name="feilun-delivery", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(farewell_s)


def _forever(office: Office, stop: threading.Event, pause_s: float) -> None:
    while not stop.wait(pause_s):
        try:
            office.deliver()
        except FeilunError as error:  # the database is away, or another thing that passes
            if not stop.is_set():
                logs.note(logging.WARNING, "nothing delivered", code=error.name)
        except Exception as error:  # noqa: BLE001 - our own bug; answers and the next delivery must not suffer from it
            frames = logs.frames(error.__traceback__)
            logs.note(logging.ERROR, "delivery failed", kind=type(error).__name__, frames=frames)
