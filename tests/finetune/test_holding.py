"""Rows that are watched and not learned from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import feilun.finetune.step  # noqa: F401 - registers the step
from feilun import datasets
from feilun.errors import DataError
from feilun.finetune import holding
from feilun.finetune.settings import FinetuneSettings
from feilun.pipeline.execute import run_step
from feilun.pipeline.kinds import Model
from feilun.pipeline.steps import STEPS, Progress
from tests.models import tiny


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[tiny.Bench]:
    made = tiny.Bench(tmp_path)
    yield made
    made.store.database.close()


@given(st.integers(10, 300), st.floats(0.1, 0.5), st.integers(0, 5))
def test_each_row_is_learned_from_or_watched_and_the_share_is_met(rows: int, share: float, seed: int) -> None:
    frame = tiny.frame(rows)
    learned, watched = holding.split(frame, FinetuneSettings(held_out=share, seed=seed))
    assert sorted([*learned["id"], *watched["id"]]) == sorted(frame["id"])
    assert len(watched) == round(share * rows)
    again = holding.split(frame.reverse(), FinetuneSettings(held_out=share, seed=seed))[1]
    assert sorted(again["id"]) == sorted(watched["id"])  # whatever the order of the rows


def grouped(kind: str) -> pl.DataFrame:
    """200 rows of 1 to 4 that share what ``kind`` says, in the column ``shared``."""
    shared = sorted(f"{'Text' if i % 2 else 'text'} number {i % 80 if i % 3 else i % 40}".lower() for i in range(200))
    frame = tiny.frame(200).drop("label").with_columns(shared=pl.Series(shared))
    own = frame["text"] + frame["id"]
    if kind == "query":
        return frame.with_columns(text="shared", other=own)
    if kind == "document":
        none = pl.Series([[]] * 200, dtype=datasets.TRUTH["answers"])
        return frame.with_columns(text=own, other="shared", answers=none)
    spoken = [
        [("system", "Be kind."), ("user", first), *[("assistant", f"so {k}"), ("user", f"and {k}")] * (i % 3)]
        for i, (first, k) in enumerate(zip(shared, own, strict=True))
    ]
    said = [[{"role": role, "content": words} for role, words in row] for row in spoken]
    return frame.with_columns(text=own, messages=pl.Series(said, dtype=datasets.TRUTH["messages"]))


@pytest.mark.parametrize("kind", ["query", "document", "conversation"])
@pytest.mark.parametrize("seed", range(3))
def test_rows_of_one_query_document_or_conversation_are_on_one_side(kind: str, seed: int) -> None:
    frame = grouped(kind)
    learned, watched = holding.split(frame, FinetuneSettings(held_out=0.2, seed=seed))
    assert not set(learned["shared"]) & set(watched["shared"])
    assert learned.height + watched.height == 200
    assert abs(watched.height - 40) <= 2
    again = holding.split(frame.reverse(), FinetuneSettings(held_out=0.2, seed=seed))[1]
    assert sorted(again["id"]) == sorted(watched["id"])


def test_rows_that_all_belong_together_cannot_be_held_out() -> None:
    frame = tiny.frame(40).with_columns(text=pl.lit("one text"))
    with pytest.raises(DataError, match=r"40 training rows \(1 that share nothing\) are too few"):
        holding.split(frame, FinetuneSettings(held_out=0.2))
    two = frame.with_columns(text=pl.Series(["this", *["that"] * 39]))
    assert holding.split(two, FinetuneSettings(held_out=0.2))[1]["text"].to_list() == ["this"]


def test_too_few_rows_to_hold_any_out_are_refused() -> None:
    with pytest.raises(DataError, match="too few to hold out"):
        holding.split(tiny.frame(4), FinetuneSettings(held_out=0.1))


@pytest.mark.parametrize("watch", ["loss", "figure"])
def test_the_watched_figure_is_seen_at_every_look_and_the_training_stops_early(bench: tiny.Bench, watch: str) -> None:
    seen: list[Progress] = []
    settings = FinetuneSettings.model_validate(
        {**tiny.QUICK, "epochs": 60, "held_out": 0.2, "watch": watch, "watch_steps": 4, "patience": 4}
    )
    inputs = {"base": bench.base(), "examples": bench.examples()}
    outcome = run_step(
        bench.store, STEPS["finetune"], settings, inputs, name="finetune", observe=lambda _, p: seen.append(p)
    )
    looks = [p for p in seen if p.what == "held out"]
    figures = [p.numbers["held_out"] for p in looks]
    assert [p.done for p in looks] == [4.0 * (i + 1) for i in range(len(looks))]
    assert looks[-1].done < looks[-1].total
    best = min(figures) if watch == "loss" else max(figures)
    assert figures.index(best) == len(figures) - 5 and outcome.metrics["best_held_out"] == best
    assert isinstance(outcome.artifact, Model) and outcome.artifact.facts["rows"] == 144
    assert best > figures[0] if watch == "figure" else best < figures[0]
    assert len(looks) > 5


def test_what_is_watched_does_not_change_what_is_learned(bench: tiny.Bench) -> None:
    """Labels of watched rows turned round: the same weights, where the best are not picked by them."""
    rows = tiny.frame()
    chosen = holding.split(rows.filter(pl.col("split") == "train"), FinetuneSettings(held_out=0.2))[1]["id"]
    turned = pl.when(pl.col("id").is_in(chosen.implode())).then(pl.lit("bad")).otherwise(pl.col("label"))
    settings = {**tiny.QUICK, "epochs": 1, "held_out": 0.2}  # one look, after the last step
    base = bench.base()
    first = bench.run("finetune", Model, settings, base=base, examples=bench.examples(rows))
    second = bench.run("finetune", Model, settings, base=base, examples=bench.examples(rows.with_columns(label=turned)))
    assert (first.path / "model.safetensors").read_bytes() == (second.path / "model.safetensors").read_bytes()
