"""What is wrong in a project file, collected with its lines so that all of it is said at once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from feilun.errors import ProjectError

_HEADER = re.compile(r"\s*\[([^\[\]]+)\]\s*(#.*)?$")
_KEY = re.compile(r"\s*([A-Za-z0-9_\"'.-]+)\s*=")


class Problems:
    """Collects what is wrong, so that all of it is said at once."""

    def __init__(self, file: Path, lines: Mapping[tuple[str, ...], int]) -> None:
        self.file = file
        self.lines = lines
        self.found: list[ProjectError] = []

    def add(self, what: str, place: Sequence[str], hint: str | None = None) -> None:
        """Note a problem at the nearest place whose line is known."""
        path = tuple(place)
        while path and path not in self.lines:
            path = path[:-1]
        section = f"  [{'.'.join(place[:2])}]" if len(place) > 1 else ""
        where = f"{self.file.name}:{self.lines.get(path, 1)}{section}"
        self.found.append(ProjectError(what, where=where, hint=hint))

    def check(self) -> None:
        """Raise what was found: one error as it is, several as one with all of their lines."""
        if len(self.found) == 1:
            raise self.found[0]
        if self.found:
            text = "\n".join(str(error) for error in self.found)
            raise ProjectError(f"{len(self.found)} problems in {self.file.name}\n{text}", where=str(self.file))


def line_numbers(text: str) -> dict[tuple[str, ...], int]:
    """Line of each table header and key. tomllib does not say; this reads the forms that people write.

    >>> line_numbers('[a.b]\\nc = 1\\n')[("a", "b", "c")]
    2
    """
    lines: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            table = tuple(part.strip().strip("\"'") for part in header[1].split("."))
            lines.setdefault(table, number)
            for depth in range(1, len(table)):
                lines.setdefault(table[:depth], number)
        elif key := _KEY.match(line):
            lines.setdefault((*table, *(part.strip("\"'") for part in key[1].split("."))), number)
    return lines
