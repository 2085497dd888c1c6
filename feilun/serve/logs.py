"""One JSON object a line, of fields on a list. Inputs, headers, keys and exceptions' words are never on it."""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from types import TracebackType

FIELDS = {"request", "tenant", "route", "status", "ms", "inputs", "tokens", "release", "model", "code", "reason"}
FIELDS |= {"frames", "kind", "worker"}
logger = logging.getLogger("feilun.serve")


def note(level: int, event: str, **fields: object) -> None:
    """Log an event with some of ``FIELDS``."""
    unknown = fields.keys() - FIELDS
    assert not unknown, f"not on the list of what may be logged: {sorted(unknown)}"
    logger.log(level, event, extra={"feilun": fields})


def frames(trace: TracebackType | None) -> list[str]:
    """Where it happened, without what was said there: an exception's words can hold what a user sent."""
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(trace)]


class Lines(logging.Formatter):
    """Ours: the event and its fields. Another library's: the words of its message without what is filled into them."""

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON."""
        fields = getattr(record, "feilun", None)
        line: dict[str, object] = {"at": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}Z"}
        line |= {"level": record.levelname.lower(), "event": record.msg if isinstance(record.msg, str) else record.name}
        return json.dumps(line | (fields or {}), ensure_ascii=True)


def write_to_stderr() -> None:
    """Let the gateway's process log lines to its standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines())
    for name, level in (("feilun.serve", logging.INFO), ("uvicorn", logging.WARNING)):
        log = logging.getLogger(name)
        log.handlers, log.propagate = [handler], False
        log.setLevel(level)
