from __future__ import annotations

import pytest

from feilun import datasets
from feilun.errors import DataError


def rows(*times):
    return [{"text": f"text {i}", "label": "ab"[i % 2], "when": time} for i, time in enumerate(times)]


SAME_SPLIT = {"split": {"train": 1.0, "test": 0.0}, "near_duplicate": 1}


def test_times_sort_as_they_happened_whatever_their_zone(run):
    times = ["2026-03-01T12:00:00+08:00", "2026-03-01", "2026-03-01T04:30:00Z", "2025-12-31T23:59:59.5"]
    dataset, _ = run(rows(*times), time="when", **SAME_SPLIT)
    order = datasets.read(dataset).sort("time")["text"].to_list()
    assert order == ["text 3", "text 1", "text 0", "text 2"]


def test_numbers_sort_as_numbers(run):
    dataset, _ = run(rows(9, 10, 1000, 0.5), time="when", **SAME_SPLIT)
    assert datasets.read(dataset).sort("time")["text"].to_list() == ["text 3", "text 0", "text 1", "text 2"]


@pytest.mark.parametrize(
    ("times", "says", "where"),
    [
        (("2026-01-01", "yesterday"), "'yesterday' is not a time", "row 2, column 'when'"),
        (("2026-01-01", None), "does not say when", "row 2, column 'when'"),
        (("5", "2026-01-01"), "'5' is not a time", "row 1, column 'when'"),
        (("-1", "2"), "'-1' is not a time", "row 1, column 'when'"),
    ],
)
def test_what_is_no_time_is_refused_with_its_place_case_44(run, times, says, where):
    with pytest.raises(DataError) as refused:
        run(rows(*times), time="when", **SAME_SPLIT)
    assert says in str(refused.value) and where in str(refused.value)


def test_a_dataset_without_times_has_no_such_column(run):
    dataset, _ = run(rows("a", "b"), **SAME_SPLIT)
    assert "time" not in datasets.read(dataset).columns
