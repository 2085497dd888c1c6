"""A dataset on disk: the same rows are the same bytes, and what is not a dataset is refused."""

from __future__ import annotations

import random

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feilun import datasets
from feilun.errors import DataError
from feilun.pipeline.kinds import Dataset
from feilun.store.artifacts import sha256_file


def table(count: int = 4, **changed: list[str | None]) -> pl.DataFrame:
    columns = {
        "id": [f"{n:04d}" for n in range(count)],
        "text": [f"text {n}" for n in range(count)],
        "label": [("bad", "good")[n % 2] for n in range(count)],
        "split": [("train", "train", "test")[n % 3] for n in range(count)],
        "contributor": [f"shop:{n % 7}" for n in range(count)],
        "domain": ["shop"] * count,
    }
    return pl.DataFrame({**columns, **changed})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=10, deadline=None)
@given(st.integers(1, 100_000), st.randoms())
def test_the_same_rows_in_any_order_and_any_pieces_are_the_same_bytes(tmp_path, count, chance: random.Random):
    frame = table(count)
    (tmp_path / "one").mkdir(exist_ok=True)
    (tmp_path / "two").mkdir(exist_ok=True)
    datasets.write(frame, tmp_path / "one")
    cut = chance.randrange(count + 1)
    pieces = pl.concat([frame[cut:], frame[:cut]], rechunk=False).select(reversed(datasets.COLUMNS))
    datasets.write(pieces.sample(fraction=1, shuffle=True, seed=chance.randrange(2**32)), tmp_path / "two")
    assert sha256_file(tmp_path / "one" / "data.parquet") == sha256_file(tmp_path / "two" / "data.parquet")


def test_what_is_written_is_read_by_split(tmp_path):
    datasets.write(table(6), tmp_path)
    dataset = Dataset("0" * 64, (), {}, tmp_path)
    assert datasets.read(dataset).equals(table(6))
    assert datasets.read(dataset, "test")["id"].to_list() == ["0002", "0005"]
    assert datasets.describe(datasets.read(dataset)) == {
        "labels": ["bad", "good"],
        "rows": 6,
        "splits": {"train": 4, "test": 2},
    }


@pytest.mark.parametrize(
    ("frame", "what", "where"),
    [
        (table().drop("domain"), "a dataset has the columns", "here: id"),
        (table().with_columns(labels=pl.lit("x")), "the column 'labels' holds String, not List", "here"),
        (table().with_columns(more=pl.lit("x")), "a dataset has the columns", "here: id"),
        (table().with_columns(label=pl.lit(1)), "holds Int32, not text", "here"),
        (table(label=["a", "", "b", "c"]), "the column 'label' is empty", "here, row 2"),
        (table(text=["a", "b", None, "c"]), "the column 'text' is empty", "here, row 3"),
        (table(id=["1", "2", "3", "2"]), "an id stands in two rows", "here, row 2"),
        (table(split=["train", "test", "test", "dev"]), "a split is one of train, test", "here, row 4"),
        (table(contributor=["a", "b", "c", None]), "the column 'contributor' is empty", "here, row 4"),
    ],
)
def test_what_is_not_a_dataset_is_refused(frame, what, where):
    with pytest.raises(DataError, match=what) as caught:
        datasets.check(frame, "here")
    assert str(caught.value.where).startswith(where)


def test_a_dataset_without_rows_on_disk_says_so(tmp_path):
    with pytest.raises(DataError, match="has no rows that can be read"):
        datasets.read(Dataset("0" * 64, (), {}, tmp_path))


@pytest.mark.parametrize(
    ("rows", "reads", "what", "where"),
    [
        ([], ("text",), "nothing is asked", None),
        ([{"text": "a"}, {"other": "b"}], ("text",), "the model reads 'text'", "row 2"),
        ([{"text": "a", "other": "b"}], ("text",), "the model does not read 'other'", "row 1"),
        ([{"text": 7}], ("text",), "'text' is not String", "rows"),
        ([{"text": "a", "candidates": "b"}], ("text", "candidates"), "'candidates' is not List", "rows"),
        ([{"messages": [{"role": "user"}, 3]}], ("messages",), "'messages' is not List", "rows"),
    ],
)
def test_what_cannot_be_asked_is_refused(rows, reads, what, where):
    with pytest.raises(DataError, match=what) as caught:
        datasets.asked(rows, reads)
    assert caught.value.where == where


def test_what_is_asked_becomes_a_table_of_what_the_task_reads():
    found = datasets.asked([{"text": "who?", "candidates": ["a", "b"]}], ("text", "candidates"))
    assert found.to_dicts() == [{"text": "who?", "candidates": ["a", "b"]}]
