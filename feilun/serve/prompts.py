"""What was asked, written down: only where the project file says so, redacted, and deleted after as many days.

    [prompts]
    keep_days = 7

A file for each day (UTC) beside the database, readable by its owner alone; not in it, so no backup carries it on. What
patterns find of e-mail, phone and card numbers is masked, which is not anonymous: whoever turns this on answers for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from feilun.pipeline.steps import Settings

FOLDER = "prompts"
DAY_S = 86_400
_ENDING = ".jsonl"


class PromptSettings(Settings):
    """``[prompts]``: without this section nothing is written."""

    keep_days: int = Field(ge=1, le=366, strict=True)


@dataclass(frozen=True)
class Prompts:
    """Where to write, for how many days it is kept, and what masks a text before."""

    folder: Path
    keep_days: int
    redact: Callable[[str], str]


class PromptLog:
    """Appends lines, in a thread of its own: a slow disk keeps no answer waiting."""

    def __init__(self, prompts: Prompts) -> None:
        folder = prompts.folder
        self._folder = folder
        self._keep_days = prompts.keep_days
        self._redact = prompts.redact
        self._thread = ThreadPoolExecutor(1, "feilun-prompts")
        self._swept = ""  # the day on which old files were deleted last
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.sweep()

    def note(self, request: str, tenant: str, model: str, texts: Sequence[str]) -> None:
        """Keep the inputs of an answered request."""
        self._thread.submit(self._write, request, tenant, model, list(texts))

    def sweep(self) -> None:
        """Delete what is older than it may be; a day counts from its end."""
        today = _day(time.time())
        oldest = _day(time.time() - self._keep_days * DAY_S)
        for file in self._folder.glob(f"*{_ENDING}"):
            if file.stem < oldest:
                file.unlink(missing_ok=True)
        self._swept = today

    def close(self) -> None:
        """Write what waits."""
        self._thread.shutdown(wait=True)

    def _write(self, request: str, tenant: str, model: str, texts: list[str]) -> None:
        now = time.time()
        if _day(now) != self._swept:
            self.sweep()
        line = {"at": int(now * 10**6), "request": request, "tenant": tenant, "model": model}
        line |= {"texts": [self._redact(text) for text in texts]}
        body = json.dumps(line, ensure_ascii=False).encode() + b"\n"
        with contextlib.suppress(OSError):  # a full disk: this is not what answers must wait or fail for
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
            descriptor = os.open(self._folder / f"{_day(now)}{_ENDING}", flags, 0o600)
            try:
                os.write(descriptor, body)  # one call: lines of several workers do not mix
            finally:
                os.close(descriptor)


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))
