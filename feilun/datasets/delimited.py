"""CSV and TSV by Polars; where it refuses, or rows are short, the csv module finds the line to name."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from feilun.errors import DataError

CELL_LIMIT = 16 << 20  # bytes


@dataclass(frozen=True)
class Shape:
    """How rows are written. ``quote`` "" means that quotation marks are ordinary characters."""

    separator: str = ","
    quote: str = '"'
    skip: int = 0
    columns: tuple[str, ...] | None = None


def read(data: bytes, shape: Shape, where: str) -> pl.DataFrame:
    """The rows of a delimited file, every cell as text ("" where there is none), rows without any text left out.

    Args:
        data: UTF-8.
        shape: separator, quotation mark, lines to skip, and the columns' names when no header has them.
        where: what errors call the file.

    Raises:
        DataError: two columns have one name, a row has too few or too many cells, a quotation mark is never closed.
    """
    names = _header(data, shape, where)
    try:
        frame = pl.read_csv(
            io.BytesIO(data),
            separator=shape.separator,
            quote_char=shape.quote or None,
            has_header=False,
            skip_lines=0,
            skip_rows=shape.skip + (0 if shape.columns else 1),
            new_columns=names,
            infer_schema=False,
            empty_string_is_null=False,
            raise_if_empty=False,
        )
    except pl.exceptions.PolarsError as error:
        raise _diagnose(data, shape, names, where) or DataError(str(error).splitlines()[0], where=where) from error
    if frame.height == 0:
        return pl.DataFrame(schema=dict.fromkeys(names, pl.String))
    if frame.columns != names:
        raise _diagnose(data, shape, names, where) or DataError(f"{len(names)} columns were expected", where=where)
    if (frame[names[-1]] == "").any() and (problem := _diagnose(data, shape, names, where)):
        raise problem  # Polars fills short rows with empty cells
    frame = frame.filter(pl.any_horizontal(pl.all() != ""))
    for name in names:
        largest = frame[name].str.len_bytes().max()
        if isinstance(largest, int) and largest > CELL_LIMIT:
            row = (frame[name].str.len_bytes().arg_max() or 0) + 1
            what = f"a cell has {largest:,} bytes; {CELL_LIMIT:,} is the most"
            raise DataError(what, where=f"{where}, row {row}, column '{name}'")
    return frame


def read_lines(data: bytes, columns: Sequence[str], where: str) -> pl.DataFrame:
    """One row a line: the text alone, or a label, a space and the text.

    Raises:
        DataError: a line has no space where a label should end.
    """
    lines = [line.strip() for line in data.decode("utf-8").split("\n")]
    if len(columns) == 1:
        return pl.DataFrame({columns[0]: [line for line in lines if line]})
    parts = [line.partition(" ") for line in lines]
    for number, (first, _, rest) in enumerate(parts, 1):
        if first and not rest:
            hint = f"each line is {columns[0]}, a space, {columns[1]}"
            raise DataError("the line has no second part", where=f"{where}, line {number}", hint=hint)
    kept = [part for part in parts if part[0]]
    return pl.DataFrame({columns[0]: [part[0] for part in kept], columns[1]: [part[2] for part in kept]})


def _header(data: bytes, shape: Shape, where: str) -> list[str]:
    if shape.columns:
        return list(shape.columns)
    try:
        _, names = next(_records(data, shape), (0, []))
    except csv.Error as error:
        raise DataError(f"the header cannot be read: {error}", where=f"{where}, line {shape.skip + 1}") from error
    names = [name.strip() for name in names]
    doubled = {name for name in names if names.count(name) > 1}
    if doubled:
        raise DataError(f"two columns are called '{min(doubled)}'", where=f"{where}, line {shape.skip + 1}")
    if not names:
        raise DataError("the first line is blank", where=where, hint="it names the columns")
    if "" in names:
        what = f"column {names.index('') + 1} has no name"
        raise DataError(what, where=f"{where}, line {shape.skip + 1}", hint="the first line names the columns")
    return names


def _diagnose(data: bytes, shape: Shape, names: Sequence[str], where: str) -> DataError | None:
    """The first row that does not fit, by reading all of it again, slowly."""
    line = shape.skip
    try:
        for line, cells in _records(data, shape):
            if cells and len(cells) != len(names):
                what = f"the row has {len(cells)} cells, the header {len(names)}"
                hint = f"a cell that holds '{shape.separator}' or a line break stands in quotation marks"
                return DataError(what, where=f"{where}, line {line}", hint=hint)
    except csv.Error as error:
        hint = "is a quotation mark missing, or one too many? Inside a cell it is written twice"
        return DataError(f"the row cannot be read: {error}", where=f"{where}, after line {line}", hint=hint)
    return None


def _records(data: bytes, shape: Shape) -> Iterator[tuple[int, list[str]]]:
    """Each record with the number of its first line."""
    csv.field_size_limit(CELL_LIMIT)
    lines = itertools.islice(io.StringIO(data.decode("utf-8"), newline=""), shape.skip, None)
    reader = csv.reader(
        lines,
        delimiter=shape.separator,
        quotechar=shape.quote or None,
        quoting=csv.QUOTE_MINIMAL if shape.quote else csv.QUOTE_NONE,
        strict=True,
    )
    start = shape.skip + 1
    for cells in reader:
        yield start, cells
        start = shape.skip + reader.line_num + 1
