"""Labels and scores: one, several or a number, called what the settings say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import polars as pl

from feilun.errors import DataError, did_you_mean
from feilun.prepare.cells import Cells
from feilun.prepare.settings import Band, PrepareSettings

_YES, _NO = ("1", "1.0", "true", "yes"), ("", "0", "0.0", "false", "no")


def one(frame: pl.DataFrame, settings: PrepareSettings, where: str) -> pl.DataFrame:
    """The column ``label`` called what ``names`` or ``bands`` say.

    Raises:
        DataError: a label that ``names`` does not have, or what is no number for ``bands``; row and column are named.
    """
    if settings.bands:
        return _banded(frame, settings.bands, f"column '{settings.label}'", where)
    if settings.names is None:
        return frame
    unknown = frame.filter(~pl.col("label").is_in(list(settings.names)))
    if unknown.height:
        place = f"{where}, row {unknown['row'][0]}, column '{settings.label}'"
        raise _unknown(unknown["label"][0], settings.names, place)
    return frame.with_columns(pl.col("label").replace_strict(settings.names, return_dtype=pl.String))


def many(cells: Cells, settings: PrepareSettings) -> list[list[str] | None]:
    """Each row's labels, sorted; None where a list is missing. An empty cell of text is a row without labels.

    Raises:
        DataError: a cell is no list of labels, neither 0 nor 1 where a column is a label, or not in ``names``.
    """
    if isinstance(settings.labels, tuple):
        return _from_columns(cells, settings.labels, settings.names)
    column = str(settings.labels)
    text = cells.has(column) and cells.part.frame[column].dtype == pl.String
    found: list[list[str] | None] = []
    for row, cell in enumerate(cells.values(column)):
        if cell is None:
            found.append([] if text else None)
            continue
        listed = cell.split(settings.separator) if isinstance(cell, str) else cell
        if not isinstance(listed, list) or any(isinstance(label, list | dict) for label in listed):
            hint = f'write ["a", "b"], or a{settings.separator}b; separator says what stands between'
            raise cells.wrong("the cell is not a list of labels", row, column, hint)
        labels = {str(label).strip() for label in listed if label is not None} - {""}
        found.append(sorted({named(label, settings.names, cells.place(row, column)) for label in labels}))
    return found


def scores(cells: Cells, column: str) -> list[float | None]:
    """Each row's number; None where the cell is empty.

    Raises:
        DataError: what is no finite number.
    """
    found: list[float | None] = []
    for row, cell in enumerate(cells.texts(column)):
        text = (cell or "").strip()
        try:
            number = float(text) if text else None
        except ValueError:
            number = math.nan
        if number is not None and not math.isfinite(number):
            hint = "score is a column of numbers; where there are none, name the column that holds the truth"
            raise cells.wrong(f"'{text[:80]}' is not a number", row, column, hint)
        found.append(number)
    return found


def spans(
    found: Sequence[list[dict[str, Any]] | None], settings: PrepareSettings, cells: Cells, *, words: bool
) -> list[list[dict[str, Any]] | None]:
    """Spans with their labels as ``names`` calls them.

    Args:
        words: whether every word has a tag: those that ``names`` does not have are no names then, and not an error.
    """
    names = settings.names
    if names is None:
        return list(found)
    column = str(settings.tags or settings.spans)
    called: list[list[dict[str, Any]] | None] = []
    for row, row_spans in enumerate(found):
        kept = [span for span in row_spans or [] if not words or span["label"] in names]
        place = cells.place(row, column)
        renamed = [{**span, "label": named(span["label"], names, place)} for span in kept]
        called.append(None if row_spans is None else renamed)
    return called


def named(label: str, names: dict[str, str] | None, place: str) -> str:
    """What a label is called.

    Raises:
        DataError: there are names, and none for it.
    """
    if names is None:
        return label
    if label not in names:
        raise _unknown(label, names, place)
    return names[label]


def _unknown(label: str, names: dict[str, str], place: str) -> DataError:
    hint = did_you_mean(label, names) or f"the labels are {', '.join(names)}"
    return DataError(f"the label '{label[:80]}' is not among 'names'", where=place, hint=hint)


def _from_columns(cells: Cells, columns: Sequence[str], names: dict[str, str] | None) -> list[list[str] | None]:
    found: list[set[str]] = [set() for _ in range(cells.rows)]
    for column in columns:
        label = named(column, names, f"{cells.part.where}, column '{column}'")
        for row, cell in enumerate(cells.texts(column)):
            says = (cell or "").strip().lower()
            if says not in (*_YES, *_NO):
                hint = "a column that is a label holds 1 where the row has it, else 0"
                raise cells.wrong(f"'{says[:80]}' is neither 0 nor 1", row, column, hint)
            if says in _YES:
                found[row].add(label)
    return [sorted(labels) for labels in found]


def _banded(frame: pl.DataFrame, bands: tuple[Band, ...], called: str, where: str) -> pl.DataFrame:
    frame = frame.with_columns(number=pl.col("label").cast(pl.Float64, strict=False))
    bad = frame.filter(pl.col("number").is_null() | ~pl.col("number").is_finite())
    if bad.height:
        place = f"{where}, row {bad['row'][0]}, {called}"
        raise DataError(f"'{bad['label'][0][:80]}' is not a number", where=place, hint="'bands' are for numbers")
    chosen = pl.lit(None, dtype=pl.String)
    for band in reversed(bands):  # the first that matches is asked last, and so wins
        inside = pl.lit(value=True)
        if band.start is not None:
            inside &= pl.col("number") >= band.start
        if band.end is not None:
            inside &= pl.col("number") <= band.end
        chosen = pl.when(inside).then(pl.lit(band.label)).otherwise(chosen)
    named = frame.with_columns(named=chosen)
    outside = named.filter(pl.col("named").is_null())
    if outside.height:
        place = f"{where}, row {outside['row'][0]}, {called}"
        hint = 'a last band without ends takes the rest: { label = "neutral" }'
        raise DataError(f"no band holds {outside['number'][0]:g}", where=place, hint=hint)
    return named.with_columns(label="named").drop("number", "named")
