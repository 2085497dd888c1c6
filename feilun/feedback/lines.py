"""Corrections as JSON lines: the form that export writes and import reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from feilun.errors import DataError

CONSENTS = (["learn"], ["learn", "share"], ["share", "learn"])
TAKEN = ("request", "input", "text", "label", "contributor")


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The corrections in a file, in the form of ``POST /v1/feedback``.

    Raises:
        DataError: no such file, a line that is not a correction, or one without its contributor's consent.
    """
    try:
        lines = file.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the file cannot be read: {error}", where=str(file)) from error
    return [_correction(line, f"{file}:{number}") for number, line in enumerate(lines, 1) if line.strip()]


def _correction(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError("the line is not JSON", where=where, hint=str(error)) from error
    missing = [name for name in TAKEN if name not in row] if isinstance(row, dict) else list(TAKEN)
    if missing:
        raise DataError(f"the line has no '{missing[0]}'", where=where, hint=f"each needs {', '.join(TAKEN)}")
    given = row.get("consent")
    if given not in (True, *CONSENTS):
        raise DataError("the contributor does not consent to learning", where=where, hint='"consent": ["learn"]')
    return {name: row[name] for name in TAKEN} | {"consent": ["learn"] if given is True else given}
