from __future__ import annotations

import fcntl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from feilun.errors import ConflictError, SettingError
from feilun.finetune.settings import FinetuneSettings
from feilun.pipeline.steps import Progress
from feilun.store import tables
from feilun.store.money import Money, parse_money
from feilun.trials.search import Found, Trial, Wanted, search
from feilun.trials.subject import Subject, digests
from tests.models import tiny

FIRST = ("accuracy", "macro_f1")  # what a classifier may be chosen by
SPACE = ("learning_rate=1e-5..2e-2", "epochs=4..10", "batch_tokens=256,512")


def subject(folder: Path, bench: tiny.Bench, **settings: Any) -> Subject:
    return Subject(
        section="finetune.films",
        settings=FinetuneSettings.model_validate({**tiny.QUICK, "epochs": 6, **settings}),
        inputs={"base": bench.base(), "examples": bench.examples(tiny.frame(160))},
        store=bench.store,
        home=folder,
        core_hour=parse_money("3600 USD"),  # a USD a second
    )


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[tiny.Bench]:
    made = tiny.Bench(tmp_path)
    yield made
    made.store.database.close()


def outcomes(bench: tiny.Bench) -> list[str]:
    columns = tables.runs.c
    query = sa.select(columns.outcome).where(columns.name.startswith("search")).order_by(columns.finished_at)
    with bench.store.database.read() as connection:
        return list(connection.execute(query).scalars())


def gist(found: Found) -> list[tuple[Any, ...]]:
    return [(t.number, dict(t.values), t.state, t.figure, dict(t.looks)) for t in found.trials]


def test_a_search_finds_settings_that_are_no_worse_than_the_section_has_and_a_second_call_does_nothing(
    bench: tiny.Bench, tmp_path: Path
) -> None:
    films = subject(tmp_path, bench, learning_rate=2e-5)
    told: list[Trial] = []
    wanted = Wanted(trials=7, space=SPACE)
    found = search(films, wanted, told.append)
    assert [t.number for t in told] == list(range(7)) and found.stopped == "trials"
    own = found.trials[0]
    assert own.values == {"batch_tokens": 512, "epochs": 6, "learning_rate": 2e-5} and own.state == "finished"
    assert found.best is not None and found.best.figure is not None and own.figure is not None
    assert found.figure in FIRST and found.best.figure > own.figure + 0.2
    assert found.toml is not None and found.toml.startswith("[finetune.films]\nbatch_tokens = ")
    pruned = [t for t in found.trials if t.state == "pruned"]
    assert pruned and all(t.model is None for t in pruned)
    assert outcomes(bench).count("pruned") == len(pruned)
    assert not any((bench.store.folder / "scratch").iterdir()) and not any((bench.store.folder / "partial").iterdir())
    tuned = bench.store.get(str(found.best.model))
    assert set(digests(films.inputs).values()) == set(tuned.parents)
    runs = len(outcomes(bench))
    assert gist(search(films, wanted)) == gist(found) and len(outcomes(bench)) == runs
    assert len(search(films, replace(wanted, trials=8)).trials) == 8


def test_an_interrupted_search_goes_on_as_if_it_had_not_been(bench: tiny.Bench, tmp_path: Path) -> None:
    films = subject(tmp_path, bench, checkpoint_steps=3)
    wanted = Wanted(trials=3, space=SPACE)
    seen = 0

    def stop(name: str, progress: Progress) -> None:
        nonlocal seen
        seen += "search" in name and progress.what == "held out"
        if seen == 6:
            seen += 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(replace(films, observe=stop), wanted)
    assert outcomes(bench)[-1] == "interrupted"
    found = search(films, wanted)
    other = tiny.Bench(tmp_path / "other")
    whole = search(subject(tmp_path / "other", other, checkpoint_steps=3), wanted)
    other.store.database.close()
    assert gist(found) == gist(whole)
    assert [t.model for t in found.trials] == [t.model for t in whole.trials]


def test_a_budget_is_overspent_by_one_step_at_the_most_and_more_money_goes_on(
    bench: tiny.Bench, tmp_path: Path
) -> None:
    films = subject(tmp_path, bench, checkpoint_steps=1)
    found = search(films, Wanted(trials=50, money=Money(10**9, "USD"), space=SPACE))
    assert found.stopped == "money" and outcomes(bench)[-1] == "interrupted"
    assert found.trials[-1].state == "interrupted" and found.trials[-1].why == "no money left"
    # a step of this network takes a hundredth of a second; what is not part of a run is counted while it runs
    assert 0.9 * 10**9 <= found.cost.nano < 1.5 * 10**9
    again = search(films, Wanted(trials=50, money=Money(10**9, "USD"), space=SPACE))
    if found.cost.nano >= 10**9:  # else the runs alone have not spent it yet, and a step more is in order
        assert again.core_ns == found.core_ns
    assert found.cost.nano <= again.cost.nano < 1.5 * 10**9
    more = search(films, Wanted(trials=len(found.trials), space=SPACE))
    assert more.stopped == "trials" and more.trials[-1].state in ("finished", "pruned")


def test_no_minutes_try_nothing(bench: tiny.Bench, tmp_path: Path) -> None:
    found = search(subject(tmp_path, bench), Wanted(minutes=0, space=SPACE))
    assert found.stopped == "minutes" and found.trials == () and found.best is None and found.toml is None


def test_settings_that_blow_up_are_a_failed_trial_and_the_search_goes_on(bench: tiny.Bench, tmp_path: Path) -> None:
    wild = {"clip": 1e38, "weight_decay": 1e30, "epochs": 400, "learning_rate": 0.99}
    found = search(subject(tmp_path, bench, **wild), Wanted(trials=2, space=("learning_rate=0.98..0.99",)))
    assert [t.state for t in found.trials] == ["failed", "failed"] and found.best is None
    assert "training stopped" in str(found.trials[0].why)


def test_few_shot_is_measured_on_rows_put_aside(bench: tiny.Bench, tmp_path: Path) -> None:
    films = subject(tmp_path, bench, method="few-shot", epochs=1)
    found = search(films, Wanted(trials=2, space=("learning_rate=1e-4..1e-2",)))
    assert [t.state for t in found.trials] == ["finished", "finished"] and found.figure in FIRST
    assert all(t.figure is not None and 0 < t.figure <= 1 and not t.looks for t in found.trials)


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (Wanted(space=("learning_rat=1e-5..1e-3",)), "did you mean 'learning_rate'"),
        (Wanted(space=("learning_rate=1e-3..1e-5",)), "does not go upwards"),
        (Wanted(space=("learning_rate=0.1..2",)), "less than 1"),
        (Wanted(space=("epochs=1.5..3",)), "whole numbers"),
        (Wanted(space=("rank=4,8",)), "no effect with the methods tried"),
        (Wanted(space=("seed=1..5",)), "cannot be searched"),
        (Wanted(space=("epochs",)), "is not setting=values"),
        (Wanted(space=("label_smoothing=0..0.2",), by="loss"), "changes the loss itself"),
        (Wanted(money=Money(10**9, "EUR")), "give it in USD"),
        (Wanted(money=Money(0, "USD")), "tries nothing"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_trained(
    bench: tiny.Bench, tmp_path: Path, wanted: Wanted, says: str
) -> None:
    with pytest.raises(SettingError) as refused:
        search(subject(tmp_path, bench), wanted)
    assert says in str(refused.value) and outcomes(bench) == []


def test_a_setting_of_one_method_is_searched_with_that_method_alone(bench: tiny.Bench, tmp_path: Path) -> None:
    found = search(subject(tmp_path, bench, epochs=1), Wanted(trials=4, space=("method=full,lora", "rank=2,4")))
    assert {t.state for t in found.trials} <= {"finished", "pruned"}
    assert {("rank" in t.values) == (t.values["method"] == "lora") for t in found.trials} == {True}
    assert {t.values["method"] for t in found.trials} == {"full", "lora"}


def test_two_searches_of_one_section_do_not_mix(bench: tiny.Bench, tmp_path: Path) -> None:
    films = subject(tmp_path, bench)
    search(films, Wanted(minutes=0, space=SPACE))
    with (tmp_path / "trials" / "finetune.films.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ConflictError, match="another process searches"):
            search(films, Wanted(trials=1, space=SPACE))


def test_other_data_is_another_search(bench: tiny.Bench, tmp_path: Path) -> None:
    films = subject(tmp_path, bench, epochs=1)
    wanted = Wanted(trials=1, space=("learning_rate=1e-5..2e-2",))
    more = replace(films, inputs={**films.inputs, "examples": bench.examples(tiny.frame(200))})
    assert search(films, wanted).study != search(more, wanted).study
    assert search(films, replace(wanted, seed=1)).study != search(films, wanted).study == search(films, wanted).study
