"""Named places where a fault test can make the process die as kill -9 does."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter

VARIABLE = "FEILUN_CRASH_AT"
POINTS = ("after-hold", "after-inference", "after-commit", "first-byte", "outbox-send")
_passed: Counter[str] = Counter()


def crash_point(name: str) -> None:
    """Die here, without any clean-up, if the environment says so. Only fault tests set it.

    The variable is a name, or a name and a passage: ``after-commit:3`` dies when the place is passed a third time.
    """
    if _is_time(name):
        os.kill(os.getpid(), signal.SIGKILL)


async def torn(name: str) -> None:
    """As ``crash_point``, once the event loop has sent what was written before: the caller has a part of the answer."""
    if _is_time(name):
        await asyncio.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)


def _is_time(name: str) -> bool:
    told = os.environ.get(VARIABLE)
    if told is None:
        return False
    point, _, passage = told.partition(":")
    if point != name:
        return False
    _passed[name] += 1
    return _passed[name] >= int(passage or 1)
