"""When rows were written, as text that sorts as the times do."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import polars as pl

from feilun.prepare.cells import Cells


def read(cells: Cells, column: str) -> pl.Series:
    """The times of all rows: ISO 8601 in UTC where they are dates, else numbers with leading zeros.

    A date without a time zone is taken as UTC. A column is one or the other: years and numbers that count something
    are numbers.

    Raises:
        DataError: a cell is empty or is neither; row and column are named.
    """
    texts = [(text or "").strip() for text in cells.texts(column)]
    for row, text in enumerate(texts):
        if not text:
            raise cells.wrong("the row does not say when it was written", row, column, "leave 'time' out, or the row")
    if (numbers := _numbers(texts)) is not None:
        return pl.Series([f"{number:026.6f}" for number in numbers], dtype=pl.String)
    found = []
    for row, text in enumerate(texts):
        try:
            moment = datetime.fromisoformat(text)
        except ValueError as error:
            hint = "write 2026-03-31, 2026-03-31T18:00:00Z, or numbers of 0 and more in all rows"
            raise cells.wrong(f"'{text[:80]}' is not a time", row, column, hint) from error
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        found.append(moment.isoformat(timespec="microseconds"))
    return pl.Series(found, dtype=pl.String)


def _numbers(texts: list[str]) -> list[float] | None:
    try:
        found = [float(text) for text in texts]
    except ValueError:
        return None
    return found if all(math.isfinite(number) and 0 <= number < 1e18 for number in found) else None
