"""The project's own datasets: ``data.parquet`` with six columns of text, the same bytes for the same rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from feilun.errors import DataError
from feilun.pipeline.kinds import Dataset

FILE = "data.parquet"
COLUMNS = ("id", "text", "label", "split", "contributor", "domain")
SPLITS = ("train", "test")
FEEDBACK = "feedback-"  # how the ids of rows begin that users gave by correcting an answer
ROW_GROUP = 65_536  # rows; fixed, for it changes the file's bytes


def read(dataset: Dataset, split: str | None = None) -> pl.DataFrame:
    """A dataset's rows, sorted by id.

    Args:
        dataset: an artefact that ``write`` filled.
        split: "train" or "test"; None for both.

    Returns:
        N rows with the columns id, text, label, split, contributor and domain, all strings.

    Raises:
        DataError: it has no ``data.parquet``, or that is not such a table.
    """
    place = dataset.path / FILE
    try:
        frame = pl.read_parquet(place)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"dataset {dataset.short} has no rows that can be read", where=str(place)) from error
    check(frame, f"dataset {dataset.short}")
    return frame if split is None else frame.filter(pl.col("split") == split)


def write(frame: pl.DataFrame, folder: Path) -> None:
    """Write ``data.parquet``: whatever the order of the rows, the same rows give the same bytes.

    Raises:
        DataError: the table is not a dataset (see ``check``).
    """
    check(frame, str(folder))
    ordered = frame.select(COLUMNS).sort("id").rechunk()
    # one thread and fixed groups: how the table was put together must not show in the bytes
    ordered.write_parquet(folder / FILE, compression="zstd", row_group_size=ROW_GROUP, statistics=True)


def check(frame: pl.DataFrame, where: str) -> None:
    """Refuse a table that is not a dataset.

    Raises:
        DataError: a column is missing, more than enough or not text; a cell is null or a label empty; an id stands
            twice; a split is unknown. The message names the first such row.
    """
    if sorted(frame.columns) != sorted(COLUMNS):
        raise DataError(f"a dataset has the columns {', '.join(COLUMNS)}", where=f"{where}: {', '.join(frame.columns)}")
    for name in COLUMNS:
        if frame[name].dtype != pl.String:
            raise DataError(f"the column '{name}' holds {frame[name].dtype}, not text", where=where)
    for name in COLUMNS:
        bad = frame[name].is_null() | (frame[name] == "") if name != "text" else frame[name].is_null()
        _refuse(bad, f"the column '{name}' is empty", where)
    _refuse(~frame["split"].is_in(SPLITS), f"a split is one of {', '.join(SPLITS)}", where)
    _refuse(frame["id"].is_duplicated(), "an id stands in two rows", where)


def describe(frame: pl.DataFrame) -> dict[str, Any]:
    """Facts for a dataset's manifest: its labels, sorted, and how many rows each split has.

    >>> describe(pl.DataFrame({"label": ["b", "a"], "split": ["train", "train"]}))
    {'labels': ['a', 'b'], 'rows': 2, 'splits': {'train': 2, 'test': 0}}
    """
    splits = {split: int((frame["split"] == split).sum()) for split in SPLITS}
    return {"labels": sorted(frame["label"].unique().to_list()), "rows": frame.height, "splits": splits}


def _refuse(bad: pl.Series, what: str, where: str) -> None:
    row = bad.arg_max() if bad.any() else None
    if row is not None:
        raise DataError(what, where=f"{where}, row {row + 1}")
