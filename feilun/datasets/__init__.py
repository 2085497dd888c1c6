"""Reading users' rows, whatever their format, and reading and writing the project's own datasets."""

from __future__ import annotations

from feilun.datasets.rows import COLUMNS, FEEDBACK, SPLITS, check, describe, read, write
from feilun.datasets.sources import column, read_source

__all__ = ["COLUMNS", "FEEDBACK", "SPLITS", "check", "column", "describe", "read", "read_source", "write"]
