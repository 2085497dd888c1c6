"""What optuna's storage does to logging, undone: its migrations read a file of settings that silences every logger."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def loggers_kept() -> Iterator[None]:
    """Whatever happens inside, every logger is then as it was.

    >>> before = logging.getLogger("feilun.example")
    >>> with loggers_kept():
    ...     before.disabled = True
    >>> before.disabled
    False
    """
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    known = [log for log in root.manager.loggerDict.values() if isinstance(log, logging.Logger)]
    kept = [(log, log.disabled, list(log.handlers), log.level, log.propagate) for log in known]
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        for log, disabled, its, own, propagates in kept:
            log.disabled, log.handlers, log.level, log.propagate = disabled, its, own, propagates
