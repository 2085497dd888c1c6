"""The project's own datasets: ``data.parquet``, the same bytes for the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from feilun.errors import DataError
from feilun.pipeline.kinds import Dataset

FILE = "data.parquet"
COLUMNS = (
    "id",
    "text",
    "label",
    "split",
    "contributor",
    "domain",
)  # all of text; a dataset of another task has no ``label``
_SPAN = pl.Struct({"start": pl.Int64, "end": pl.Int64, "label": pl.String})  # of characters of ``text``; end excluded
_ANSWER = pl.Struct({"start": pl.Int64, "text": pl.String})  # where in ``other`` it starts, in characters
_MESSAGE = pl.Struct({"role": pl.String, "content": pl.String})
# What a row may be labelled with; which columns a dataset has depends on the task that it is for.
TRUTH: dict[str, pl.DataType | type[pl.DataType]] = {
    "label": pl.String,  # one label
    "labels": pl.List(pl.String),  # any number of labels, none included
    "spans": pl.List(_SPAN),  # names in the text
    "other": pl.String,  # a second text: of a pair, the right document of a query, what a question is asked of
    "score": pl.Float64,
    "answers": pl.List(_ANSWER),  # right answers to the question ``text``, in ``other``; none where it has no answer
    "messages": pl.List(_MESSAGE),  # a conversation; the last message is the answer, unless ``chosen`` holds it
    "chosen": pl.String,  # the better answer
    "rejected": pl.String,  # the worse one
}
TIME = "time"  # when a row was written, where the source says it: text that sorts as the times do
ORDER = ("id", "text", *TRUTH, "split", "contributor", "domain", TIME)  # of the columns in the file
SPLITS = ("train", "test")
FEEDBACK = "feedback-"  # how the ids of rows begin that users gave by correcting an answer
ROW_GROUP = 65_536  # rows; fixed, for it changes the file's bytes


def read(dataset: Dataset, split: str | None = None) -> pl.DataFrame:
    """A dataset's rows, sorted by id.

    Args:
        dataset: an artefact that ``write`` filled.
        split: "train" or "test"; None for both.

    Returns:
        N rows with the columns id, text, split, contributor and domain, all text, those of ``TRUTH`` that it has, and
        ``time`` where its source says when a row was written.

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
    ordered = frame.select(c for c in ORDER if c in frame.columns).sort("id").rechunk()
    # one thread and fixed groups: how the table was put together must not show in the bytes
    ordered.write_parquet(folder / FILE, compression="zstd", row_group_size=ROW_GROUP, statistics=True)


def check(frame: pl.DataFrame, where: str) -> None:
    """Refuse a table that is not a dataset.

    Raises:
        DataError: a column is missing, unknown or of another type; a cell is null or a label empty; an id stands twice;
            a split is unknown. The message names the first such row.
    """
    always = [name for name in COLUMNS if name != "label"]
    if not set(always) <= set(frame.columns) <= set(ORDER):
        raise DataError(
            f"a dataset has the columns {', '.join(always)}, and of {', '.join(TRUTH)} those that its task needs, "
            f"and {TIME} where the source says it",
            where=f"{where}: {', '.join(frame.columns)}",
        )
    types = dict.fromkeys((*COLUMNS, TIME), pl.String) | TRUTH
    for name in frame.columns:
        if frame[name].dtype != types[name]:
            wanted = "text" if types[name] == pl.String else types[name]
            raise DataError(f"the column '{name}' holds {frame[name].dtype}, not {wanted}", where=where)
    for name in frame.columns:
        empty = frame[name].is_null()
        if name in COLUMNS and name != "text":
            empty |= frame[name] == ""
        _refuse(empty, f"the column '{name}' is empty", where)
    _refuse(~frame["split"].is_in(SPLITS), f"a split is one of {', '.join(SPLITS)}", where)
    _refuse(frame["id"].is_duplicated(), "an id stands in two rows", where)


OPTIONS = {  # how the command line is told what a question needs beside its text
    "other": "--other TEXT",
    "candidates": "--candidate TEXT, once for each",
}


def asked(rows: Sequence[Mapping[str, Any]], reads: Sequence[str], may: Sequence[str] = ()) -> pl.DataFrame:
    """What somebody asks a model, as the table that a task reads.

    Args:
        rows: records with the columns ``reads``, of which ``candidates`` is a list of texts; others are refused.
        may: columns that may be there as well, in every row or in none.

    Raises:
        DataError: there is nothing, or a row lacks a column, has another one, or one of another type.
    """
    if not rows:
        raise DataError("nothing is asked", hint='give a text, or --file with lines like {"text": "..."}')
    reads = [*reads, *(name for name in may if any(name in row for row in rows))]
    types = dict.fromkeys(COLUMNS, pl.String) | TRUTH | {"candidates": pl.List(pl.String)}
    columns = []
    for name in reads:
        for number, row in enumerate(rows, 1):
            if row.get(name) is None:
                hint = f"{OPTIONS[name]}; or a column '{name}' of --file" if name in OPTIONS else None
                raise DataError(f"the model reads '{name}', and there is none", where=f"row {number}", hint=hint)
            unknown = sorted(row.keys() - set(reads))
            if unknown:
                known = ", ".join(dict.fromkeys([*reads, *may]))
                raise DataError(
                    f"the model does not read '{unknown[0]}'", where=f"row {number}", hint=f"it reads {known}"
                )
        values = [row[name] for row in rows]
        try:
            if isinstance(types[name], pl.List) and not all(isinstance(value, list) for value in values):
                raise TypeError("a list is needed")  # Polars would make one of a text
            columns.append(pl.Series(name, values, types[name], strict=True))
        except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError) as error:
            raise DataError(f"'{name}' is not {types[name]}", where="rows", hint=str(error).splitlines()[0]) from error
    return pl.DataFrame(columns)


def require(frame: pl.DataFrame, columns: Sequence[str], where: str) -> None:
    """Refuse a dataset without the columns that a task needs.

    Raises:
        DataError: the message names the column and how prepare makes it.
    """
    for name in columns:
        if name not in frame.columns:
            hint = f"say in prepare which column of the source it is: {name} = ..."
            raise DataError(f"the dataset has no column '{name}'", where=where, hint=hint)


def describe(frame: pl.DataFrame) -> dict[str, Any]:
    """Facts for a dataset's manifest: its labels, sorted, and how many rows each split has.

    >>> describe(pl.DataFrame({"label": ["b", "a"], "split": ["train", "train"]}))
    {'labels': ['a', 'b'], 'rows': 2, 'splits': {'train': 2, 'test': 0}}
    """
    splits = {split: int((frame["split"] == split).sum()) for split in SPLITS}
    return {"labels": labels(frame), "rows": frame.height, "splits": splits}


def labels(frame: pl.DataFrame) -> list[str]:
    """The labels that occur in the columns that hold any, sorted.

    >>> labels(pl.DataFrame({"labels": [["b"], ["a", "b"], []]}))
    ['a', 'b']
    """
    found: set[str] = set()
    if "label" in frame.columns:
        found |= set(frame["label"].unique())
    if "labels" in frame.columns:
        found |= set(frame["labels"].explode().drop_nulls())
    if "spans" in frame.columns:
        found |= set(frame["spans"].explode().drop_nulls().struct.field("label"))
    return sorted(found)


def _refuse(bad: pl.Series, what: str, where: str) -> None:
    row = bad.arg_max() if bad.any() else None
    if row is not None:
        raise DataError(what, where=f"{where}, row {row + 1}")
