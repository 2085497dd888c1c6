"""Reading users' rows, whatever their format, and reading and writing the project's own datasets."""

from __future__ import annotations

from feilun.datasets.rows import (
    COLUMNS,
    FEEDBACK,
    ORDER,
    SPLITS,
    TIME,
    TRUTH,
    asked,
    check,
    describe,
    labels,
    read,
    require,
    write,
)
from feilun.datasets.sources import Part, column, read_parts, read_source

__all__ = [
    "COLUMNS",
    "FEEDBACK",
    "ORDER",
    "SPLITS",
    "TIME",
    "TRUTH",
    "Part",
    "asked",
    "check",
    "column",
    "describe",
    "labels",
    "read",
    "read_parts",
    "read_source",
    "require",
    "write",
]
