"""A source's rows as a table, or an error that says where they are wrong (RELIABILITY 44)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from feilun.datasets import delimited, jsonlines, text, words
from feilun.errors import DataError, did_you_mean
from feilun.pipeline.kinds import Source
from feilun.store.artifacts import MANIFEST

ROWS_LIMIT = 100_000_000  # of a Parquet file, whose few bytes can claim any number


@dataclass(frozen=True)
class Part:
    """The rows of one file of a source, what errors call it, and its format."""

    where: str
    frame: pl.DataFrame
    form: str


def read_parts(
    source: Source, *, encoding: str | None = None, columns: Sequence[str] | None = None, form: str | None = None
) -> list[Part]:
    """Read what a source holds, file by file.

    Args:
        source: its facts may say ``format``, ``columns`` (when no header names them), ``encoding``, ``quote``, ``skip``
            (lines before the header or the rows) and ``pairs`` (see ``words.read_tagged``). One of several files has
            facts of its own in ``files``; ``values`` there are columns with one value in all of the file's rows.
        encoding: of text; the source's own by default, else UTF-8 or what a byte-order mark says.
        columns: names, for a file whose first line is a row already; the source's own by default.
        form: csv, tsv, jsonl, parquet, lines, conll or tagged; the source's own by default.

    Returns:
        Each file's rows, at least one. Every column of CSV, TSV and lines is text; Parquet and JSON lines keep their
        types; conll and tagged have the columns tokens and tags.

    Raises:
        DataError: the rows cannot be read, with file and line.
    """
    given = {"encoding": encoding, "columns": columns, "format": form}
    parts = []
    for place in _files(source):
        own = source.facts.get("files", {}).get(place.name, {})
        facts = {**source.facts, **own, **{name: value for name, value in given.items() if value}}
        where = str(facts.get("origin", place.name))
        frame = _read(place, facts, where)
        if frame.height == 0:
            raise DataError("there are no rows", where=where)
        values = {name: pl.lit(value) for name, value in own.get("values", {}).items()}
        parts.append(Part(where, frame.with_columns(**values), str(facts["format"])))
    return parts


def read_source(source: Source, *, encoding: str | None = None, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """The rows of all files of a source, one below the other; see ``read_parts``."""
    parts = read_parts(source, encoding=encoding, columns=columns)
    return pl.concat([part.frame for part in parts], how="diagonal_relaxed")


def _read(place: Path, facts: Mapping[str, Any], where: str) -> pl.DataFrame:
    form = facts.get("format")
    if form == "parquet":
        return _read_parquet(place, where)
    if form not in ("csv", "tsv", "jsonl", "lines", "conll", "tagged"):
        raise DataError(f"rows in the format '{form}' cannot be read", where=where)
    data = text.read(place, where, facts.get("encoding"))
    if form == "jsonl":
        return jsonlines.read(data, where)
    if form == "conll":
        return words.read_conll(data, where)
    if form == "tagged":
        return words.read_tagged(data, where, facts.get("pairs"))
    columns = facts.get("columns")
    if form == "lines":
        return delimited.read_lines(data, columns or ["text"], where)
    shape = delimited.Shape(
        separator="," if form == "csv" else "\t",
        quote=facts.get("quote", '"'),
        skip=facts.get("skip", 0),
        columns=tuple(columns) if columns else None,
    )
    return delimited.read(data, shape, where)


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


def _files(source: Source) -> list[Path]:
    files = sorted(file for file in source.path.iterdir() if file.is_file() and file.name != MANIFEST)
    if len(files) != max(1, len(source.facts.get("files", {}))):
        raise DataError(f"a source is one file; source {source.short} has {len(files)}", where=str(source.path))
    return files


def _read_parquet(place: Path, where: str) -> pl.DataFrame:
    try:
        rows = pl.scan_parquet(place).select(pl.len()).collect().item()
        if rows > ROWS_LIMIT:
            raise DataError(f"{rows:,} rows are more than the {ROWS_LIMIT:,} that can be read", where=where)
        return pl.read_parquet(place)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError("the Parquet file cannot be read", where=f"{where}: {str(error).splitlines()[0]}") from error
