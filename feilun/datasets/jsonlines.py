"""JSON lines by Polars; where it refuses, the json module finds the line to name."""

from __future__ import annotations

import io
import json

import polars as pl

from feilun.errors import DataError


def read(data: bytes, where: str) -> pl.DataFrame:
    """One record a line; a column that a record lacks is null there.

    Raises:
        DataError: a line is not a JSON object, or a column holds values of kinds that do not go together.
    """
    try:
        return pl.read_ndjson(io.BytesIO(data), infer_schema_length=None)
    except pl.exceptions.PolarsError as error:
        raise _diagnose(data, where) or DataError(str(error).splitlines()[0], where=where) from error


def _diagnose(data: bytes, where: str) -> DataError | None:
    kinds: dict[str, tuple[str, int]] = {}
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        place = f"{where}, line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            return DataError(f"the line is not JSON: {error}", where=place)
        if not isinstance(record, dict):
            return DataError("the line is not a JSON object", where=place, hint='write {"text": "...", "label": "..."}')
        for name, value in record.items():
            kind = _kind(value)
            first, at = kinds.setdefault(name, (kind, number)) if kind else ("", 0)
            if kind and kind != first:
                what = f"the column '{name}' holds {kind} here and {first} in line {at}"
                return DataError(what, where=place)
    return None


def _kind(value: object) -> str:
    if value is None:
        return ""
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list"}
    return names.get(type(value), "a record")
