"""Running feilun's own commands as a user would, and watching what they take."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from feilun.errors import StepError


@dataclass
class Shell:
    """Runs ``feilun ...`` in a project, shows what it runs, and reads the JSON that it prints."""

    project: Path
    environment: Mapping[str, str]
    echo: Any  # called with each command line
    seconds: dict[str, float] = field(default_factory=dict)

    def feilun(self, *arguments: str, quiet: bool = False) -> Any:
        """Run one command with ``--json``; its progress bars go through to the terminal.

        Raises:
            StepError: it failed; the message is the command's own.
        """
        if not quiet:
            self.echo("feilun " + " ".join(_quoted(a) for a in arguments))
        command = [sys.executable, "-m", "feilun", *arguments, "--project", str(self.project), "--json"]
        environment = {**os.environ, **self.environment}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode != 0:
            said = json.loads(done.stdout)["error"] if done.stdout.strip() else {"message": "it said nothing"}
            raise StepError(
                f"'feilun {arguments[0]}' ended with {done.returncode}: {said['message']}",
                where=said.get("where"),
                hint=said.get("hint"),
            )
        return json.loads(done.stdout)


class MemoryWatch:
    """The peak of this process and all its children together, sampled; shared pages are counted for each (RSS)."""

    def __init__(self, every: float = 0.2) -> None:
        self.peak_bytes = 0
        self._every = every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._stop.wait(self._every):
            total = 0
            for process in (me, *me.children(recursive=True)):
                try:
                    total += process.memory_info().rss
                except psutil.NoSuchProcess:  # it ended between the listing and the look
                    continue
            self.peak_bytes = max(self.peak_bytes, total)


def _quoted(argument: str) -> str:
    return f"'{argument}'" if " " in argument else argument
