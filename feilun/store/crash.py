"""Named places where a fault test can make the process die as kill -9 does."""

from __future__ import annotations

import os
import signal

VARIABLE = "FEILUN_CRASH_AT"
POINTS = ("after-hold", "after-inference", "after-commit", "outbox-send")


def crash_point(name: str) -> None:
    """Die here, without any clean-up, if the environment says so. Only fault tests set it."""
    if os.environ.get(VARIABLE) == name:
        os.kill(os.getpid(), signal.SIGKILL)
