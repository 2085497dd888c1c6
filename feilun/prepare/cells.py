"""The cells of one file, whatever its format: text, numbers, lists and records, each with a place to name in errors."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import polars as pl

from feilun import datasets
from feilun.datasets import Part
from feilun.errors import DataError, did_you_mean


def whole(given: Any) -> int:
    """A place in a text: a whole number, or text or a float that is one (a list of 0, 5 and "place" comes as text).

    Raises:
        TypeError: it is no number.
        ValueError: it is not whole, or not finite.

    >>> whole(3), whole("3"), whole(3.0)
    (3, 3, 3)
    """
    if isinstance(given, int) and not isinstance(given, bool):
        return given
    number = float(given)
    if isinstance(given, bool) or not number.is_integer():
        raise ValueError(f"{given} is not a whole number")
    return int(number)


@dataclass(frozen=True)
class Cells:
    """Rows as they came."""

    part: Part

    @property
    def rows(self) -> int:
        """How many there are."""
        return self.part.frame.height

    @property
    def tagged(self) -> bool:
        """Whether every word has a tag, that of a name or another."""
        return self.part.form == "tagged"

    def has(self, column: str) -> bool:
        """Whether there is such a column."""
        return column in self.part.frame.columns

    def place(self, row: int, column: str) -> str:
        """What errors call a cell; ``row`` counts from 0, the place from 1."""
        return f"{self.part.where}, row {row + 1}, column '{column}'"

    def texts(self, column: str) -> pl.Series:
        """A column as text; null where there is none.

        Raises:
            DataError: no such column, it is all empty, or holds lists or records.
        """
        return datasets.column(self.part.frame, column, self.part.where)

    def values(self, column: str) -> list[Any]:
        """A column as plain values, JSON in cells of text read; None where a cell is empty.

        Raises:
            DataError: no such column, it is all empty, or a cell begins like JSON and is none.
        """
        frame = self.part.frame
        if column not in frame.columns:
            hint = did_you_mean(column, frame.columns) or f"the columns are {', '.join(frame.columns[:20])}"
            raise DataError(f"there is no column '{column}'", where=self.part.where, hint=hint)
        values = frame[column].to_list()
        if frame[column].dtype == pl.String:
            values = [self._read(value, row, column) for row, value in enumerate(values)]
        if all(value is None for value in values):
            raise DataError(f"the column '{column}' is empty in every row", where=self.part.where)
        return values

    def _read(self, cell: str | None, row: int, column: str) -> Any:
        cell = (cell or "").strip()
        if not cell.startswith(("[", "{")):
            return cell or None
        try:
            return json.loads(cell)
        except (ValueError, RecursionError) as error:
            raise self.wrong(f"the cell is not JSON: {error}", row, column) from error

    def wrong(self, what: str, row: int, column: str, hint: str | None = None) -> DataError:
        """The error that names a cell."""
        return DataError(what, where=self.place(row, column), hint=hint)
