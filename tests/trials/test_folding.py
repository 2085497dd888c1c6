from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import feilun.trials.step  # noqa: F401 - registers the steps
from feilun import datasets
from feilun.errors import DataError, SettingError
from feilun.pipeline.kinds import Dataset
from feilun.store import lineage
from feilun.trials import folding
from feilun.trials.settings import By
from tests.models import tiny


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[tiny.Bench]:
    made = tiny.Bench(tmp_path)
    yield made
    made.store.database.close()


def rows(texts: list[str], **columns: list[str]) -> pl.DataFrame:
    n = len(texts)
    usual = {
        "label": ["a"] * n,
        "split": ["train"] * n,
        "contributor": [f"c{i}" for i in range(n)],
        "domain": ["d"] * n,
    }
    return pl.DataFrame({"id": [f"{i:03d}" for i in range(n)], "text": texts} | usual | columns)


@given(
    texts=st.lists(st.sampled_from("abcdefghijkl"), min_size=12, max_size=60),
    folds=st.integers(2, 4),
    seed=st.integers(0, 99),
)
def test_every_row_is_held_out_once_and_no_text_is_on_both_sides(texts: list[str], folds: int, seed: int) -> None:
    frame = rows(texts)
    if len(set(texts)) < folds:
        with pytest.raises(SettingError, match="texts"):
            folding.assign(frame, folds, "text", seed)
        return
    part = folding.assign(frame, folds, "text", seed)
    assert set(part) == set(range(folds))
    assert len({(text, number) for text, number in zip(texts, part, strict=True)}) == len(set(texts))


def test_conversations_that_begin_alike_are_in_one_part() -> None:
    said = [[{"role": "user", "content": first}] for first in ("A film", "a  FILM", "b", "c")]
    frame = rows(["1", "2", "3", "4"]).with_columns(messages=pl.Series(said, dtype=datasets.TRUTH["messages"]))
    part = folding.assign(frame, 3, "text", 0)
    assert part[0] == part[1]


def test_texts_that_differ_in_case_alone_are_one_text() -> None:
    frame = rows(["A film", "a  FILM", "b", "c"])
    part = folding.assign(frame, 3, "text", 0)
    assert part[0] == part[1]


def test_parts_have_their_share_of_each_label() -> None:
    frame = tiny.frame(180).unique("text", maintain_order=True)
    part = folding.assign(frame, 5, "text", 0)
    for number in range(5):
        counts = Counter(frame["label"].filter(pl.Series(part) == number))
        assert all(11 <= counts[label] <= 13 for label in tiny.SAYS)


@pytest.mark.parametrize("by", ["contributor", "domain"])
def test_a_group_is_in_one_part_and_parts_are_as_equal_as_groups_allow(by: By) -> None:
    frame = tiny.frame(210)
    part = folding.assign(frame, 2, by, 0)
    pairs = {(group, number) for group, number in zip(frame[by], part, strict=True)}
    assert len(pairs) == frame[by].n_unique()
    if by == "contributor":  # seven of thirty rows each
        assert sorted(Counter(part).values()) == [90, 120]


def test_contributors_that_are_rows_are_refused_and_so_are_more_parts_than_groups() -> None:
    frame = rows(["a", "b", "c"])
    with pytest.raises(DataError, match="a contributor of its own"):
        folding.assign(frame, 2, "contributor", 0)
    with pytest.raises(SettingError, match="need as many domains"):
        folding.assign(frame, 2, "domain", 0)


@given(
    labels=st.lists(st.sampled_from(["a", "b", "c"]), min_size=3, max_size=50),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_smaller_parts_are_nested_and_have_every_label(labels: list[str], seed: int, data: st.DataObject) -> None:
    frame = rows([f"t{i}" for i in range(len(labels))], label=labels)
    kinds = len(set(labels))
    few, many = sorted(data.draw(st.integers(kinds, len(labels))) for _ in range(2))
    less, more = (folding.smaller(frame, n, seed) for n in (few, many))
    assert less.height == few and more.height == many
    assert set(less["id"]) <= set(more["id"]) and set(less["label"]) == set(labels)
    with pytest.raises(SettingError, match="cannot have"):
        folding.smaller(frame, kinds - 1, seed)


def test_a_fold_is_of_the_training_rows_alone_and_its_parent_is_known(bench: tiny.Bench) -> None:
    examples = bench.examples()
    train = datasets.read(examples, "train")
    made = [bench.run("fold", Dataset, {"folds": 3, "fold": k}, examples=examples) for k in range(3)]
    held_out = [datasets.read(one, "test") for one in made]
    assert sorted(pl.concat(held_out)["id"]) == sorted(train["id"])
    for one, test in zip(made, held_out, strict=True):
        assert sorted([*datasets.read(one, "train")["id"], *test["id"]]) == sorted(train["id"])
        with bench.store.database.read() as connection:
            assert examples.digest in {link.digest for link in lineage.ancestors(connection, one.digest)}


def test_a_label_that_only_the_held_out_part_has_is_left_out_and_counted(bench: tiny.Bench) -> None:
    frame = tiny.frame(40).with_columns(
        label=pl.when(pl.col("id") == "row-0000").then(pl.lit("odd")).otherwise(pl.col("label"))
    )
    examples = bench.examples(frame)
    cards = []
    for k in range(2):
        made = bench.run("fold", Dataset, {"folds": 2, "fold": k}, examples=examples)
        assert "odd" not in set(datasets.read(made, "test")["label"])
        cards.append((made.path / "card.json").read_text())
    assert sum('"of_unknown_labels": 1' in card for card in cards) == 1


def test_by_time_a_model_learns_from_the_past_alone(bench: tiny.Bench) -> None:
    frame = tiny.frame(160)
    days = [f"2026-{1 + (i * 7) % 12:02d}-15T00:00:00.000000+00:00" for i in range(frame.height)]
    examples = bench.examples(frame.with_columns(time=pl.Series(days)))
    seen: set[str] = set()
    for k in range(3):
        made = bench.run("fold", Dataset, {"folds": 3, "fold": k, "by": "time"}, examples=examples)
        past, next_ = datasets.read(made, "train"), datasets.read(made, "test")
        assert max(past["time"]) < min(next_["time"]) and seen.isdisjoint(next_["id"])
        assert set(past["id"]) >= seen
        seen |= set(next_["id"])
    assert len(seen) == pytest.approx(120 * 3 / 4, abs=12)  # whole months stay together


def test_rows_without_times_or_of_one_moment_cannot_be_divided_by_time(bench: tiny.Bench) -> None:
    frame = tiny.frame(40)
    with pytest.raises(DataError, match="does not say when") as refused:
        bench.run("fold", Dataset, {"by": "time"}, examples=bench.examples(frame))
    assert "time = " in str(refused.value)
    at_once = bench.examples(frame.with_columns(time=pl.lit("2026-01-01T00:00:00+00:00")))
    with pytest.raises(DataError, match="do not fall into 6 blocks"):
        bench.run("fold", Dataset, {"by": "time"}, examples=at_once)
