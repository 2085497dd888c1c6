"""Labels that a model was never told of are found with their rows."""

from __future__ import annotations

import polars as pl
import pytest

from feilun.tasks import unseen

ROWS: dict[str, tuple[list[object], list[str]]] = {
    "label": (["good", "bad", "odd", "odd"], ["bad", "good"]),
    "labels": ([["good"], [], ["bad", "odd"], ["odd", "odd"]], ["bad", "good"]),
    "spans": (
        [[{"start": 0, "end": 1, "label": name} for name in row] for row in (["good"], [], ["bad", "odd"], ["odd"])],
        ["B-bad", "B-good", "I-bad", "I-good", "O"],
    ),
}


@pytest.mark.parametrize("column", ROWS)
def test_the_first_row_with_an_unknown_label_is_named_case_44(column: str) -> None:
    cells, known = ROWS[column]
    frame = pl.DataFrame({"id": [f"r{i}" for i in range(4)], column: cells})
    assert unseen.find(frame, ("other", column), known) == unseen.Unseen("odd", column, "r2", 2)
    assert unseen.find(frame.head(2), (column,), known) is None
    assert unseen.find(frame.clear(), (column,), known) is None
    assert unseen.find(frame, ("score",), known) is None
