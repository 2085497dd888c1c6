"""A whole turn on tiny networks: what the champion learned from may have columns that corrections have not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import polars as pl
import pytest

import feilun.compress.step
import feilun.evaluate.step
import feilun.feedback.step
import feilun.finetune.step
import feilun.serve.step  # noqa: F401 - each registers its step
from feilun import datasets, turn
from feilun.accounts import tenants
from feilun.errors import DataError, StepError
from feilun.pipeline.kinds import Model, Release, Report
from feilun.pipeline.project import Project, Section
from feilun.pipeline.steps import STEPS
from feilun.relearn.settings import RelearnSettings
from feilun.relearn.step import alike
from feilun.store import releases
from tests.models import tiny
from tests.relearn.test_mix import correct


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tiny.Bench]:
    made = tiny.Bench(tmp_path_factory.mktemp("turn"))
    tenants.create(made.store.database, "acme", plan="any")
    yield made
    made.store.database.close()


def project(bench: tiny.Bench, **finetune: Any) -> Project:
    relearn = RelearnSettings(min_feedback=2, min_held_out=1, value_per_correct_answer="1 USD")
    settings = STEPS["finetune"].settings(**tiny.QUICK, **finetune)
    section = Section(STEPS["finetune"], "finetune.m", settings, {}, 1)
    return Project("tiny", bench.folder, {"finetune.m": section}, {"relearn.m": relearn})


def test_what_the_champion_learned_from_may_say_more_of_its_rows_than_corrections_do(bench: tiny.Bench) -> None:
    rows = tiny.frame(120).with_columns(other=pl.lit("a film"), score=pl.lit(1.0), time=pl.lit("2026-01-01"))
    examples = bench.examples(rows)
    quick = {**tiny.QUICK, "epochs": 4, "architecture": "lstm", "width": 16}
    tuned = bench.run("finetune", Model, quick, base=bench.base(), examples=examples)
    small = bench.run("compress", Model, {"quantise": "none"}, model=tuned, examples=examples)
    report = bench.run("evaluate", Report, {"resamples": 100}, model=small, examples=(examples,))
    champion = bench.run("serve", Release, {"name": "m"}, model=small, reports=(report,))
    releases.register(bench.store.database, champion)
    releases.promote(bench.store.database, "m", champion.digest, expected_version=0, reason="first")
    for number, text in enumerate(tiny.frame(30, seed=5)["text"]):
        correct(bench.store, champion, text, ("bad", "fair", "good")[number % 3], "ann")
    made = project(bench, architecture="lstm", width=16)
    done = turn.turn(made, bench.store, "m", core_hour_nano=1)
    assert done.decision.verdict in ("promote", "keep") and done.candidate is not None
    assert [s["name"].split("/")[1] for s in done.steps][:3] == ["feedback", "mix", "finetune"]


def test_a_champion_of_another_task_is_refused_before_anything_is_paid_for(bench: tiny.Bench) -> None:
    model = bench.model(tiny.write_base(bench.folder / "tagger"), format="openvino", task="tag")
    folder = bench.folder / "release"
    folder.mkdir()
    (folder / "release.json").write_text("{}")
    champion = bench.store.add(Release, folder, parents=[model.digest], facts={"name": "tags", "task": "tag"})
    runner = turn.Bench(project(bench), bench.store, "tags", None)
    with pytest.raises(StepError, match="does not classify: its task is 'tag'"):
        turn._learn(runner, RelearnSettings(value_per_correct_answer="1 USD"), champion)
    assert not runner.outcomes


def test_rows_of_another_task_are_not_mixed_with_corrections() -> None:
    feedback = tiny.frame(4).select(datasets.COLUMNS)
    assert alike(feedback.with_columns(time=pl.lit("2026")), feedback).columns == feedback.columns
    with pytest.raises(DataError, match="no column 'label'"):
        alike(feedback.drop("label").with_columns(score=pl.lit(1.0)), feedback)
