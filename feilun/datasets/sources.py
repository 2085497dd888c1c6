"""A source's rows as a table, or an error that says where they are wrong (RELIABILITY 44)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from feilun.datasets import delimited, jsonlines, text
from feilun.errors import DataError, did_you_mean
from feilun.pipeline.kinds import Source
from feilun.store.artifacts import MANIFEST

ROWS_LIMIT = 100_000_000  # of a Parquet file, whose few bytes can claim any number


def read_source(source: Source, *, encoding: str | None = None, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """Read what a source holds.

    Args:
        source: one file; its facts may say ``format``, ``columns`` (when no header names them), ``encoding``, ``quote``
            and ``skip`` (lines before the header or the rows).
        encoding: of text; the source's own by default, else UTF-8 or what a byte-order mark says.
        columns: names, for a file whose first line is a row already; the source's own by default.

    Returns:
        N rows, at least one. Every column of CSV, TSV and lines is text; Parquet and JSON lines keep their types.

    Raises:
        DataError: the rows cannot be read, with file and line.
    """
    place = _only_file(source)
    where = str(source.facts.get("origin", place.name))
    encoding = encoding or source.facts.get("encoding")
    columns = columns or source.facts.get("columns")
    form = source.facts.get("format")
    if form == "parquet":
        frame = _read_parquet(place, where)
    elif form == "jsonl":
        frame = jsonlines.read(text.read(place, where, encoding), where)
    elif form == "lines":
        frame = delimited.read_lines(text.read(place, where, encoding), columns or ["text"], where)
    elif form in ("csv", "tsv"):
        shape = delimited.Shape(
            separator="," if form == "csv" else "\t",
            quote=source.facts.get("quote", '"'),
            skip=source.facts.get("skip", 0),
            columns=tuple(columns) if columns else None,
        )
        frame = delimited.read(text.read(place, where, encoding), shape, where)
    else:
        raise DataError(f"rows in the format '{form}' cannot be read", where=where)
    if frame.height == 0:
        raise DataError("there are no rows", where=where)
    return frame


def column(frame: pl.DataFrame, name: str, where: str) -> pl.Series:
    """A column as text.

    Raises:
        DataError: there is no such column, it is all empty, or it holds lists or records.
    """
    if name not in frame.columns:
        hint = did_you_mean(name, frame.columns) or f"the columns are {', '.join(frame.columns[:20])}"
        raise DataError(f"there is no column '{name}'", where=where, hint=hint)
    found = frame[name]
    if found.dtype.is_nested() or found.dtype == pl.Binary:
        raise DataError(f"the column '{name}' holds {found.dtype}, not text", where=where)
    found = found.cast(pl.String)
    if found.null_count() + int((found == "").sum() or 0) == found.len():
        raise DataError(f"the column '{name}' is empty in every row", where=where)
    return found


def _only_file(source: Source) -> Path:
    files = [file for file in source.path.iterdir() if file.is_file() and file.name != MANIFEST]
    if len(files) != 1:
        raise DataError(f"a source is one file; source {source.short} has {len(files)}", where=str(source.path))
    return files[0]


def _read_parquet(place: Path, where: str) -> pl.DataFrame:
    try:
        rows = pl.scan_parquet(place).select(pl.len()).collect().item()
        if rows > ROWS_LIMIT:
            raise DataError(f"{rows:,} rows are more than the {ROWS_LIMIT:,} that can be read", where=where)
        return pl.read_parquet(place)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError("the Parquet file cannot be read", where=f"{where}: {str(error).splitlines()[0]}") from error
