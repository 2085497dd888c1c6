"""Plans and runs: what is known is reused, what is not is run once, and nothing half-done is ever used."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feilun.errors import ArtifactError, ConflictError, DataError
from feilun.pipeline import plan as planning
from feilun.pipeline.execute import fingerprint, run_step
from feilun.pipeline.kinds import Dataset, Source
from feilun.pipeline.project import Project, Section
from feilun.pipeline.steps import STEPS, Settings, Stopped, Workspace, step
from feilun.store import runs
from feilun.store.artifacts import ArtifactStore, canonical
from feilun.store.migrations import open_database

CALLS: list[str] = []


class CountSettings(Settings):
    """Of the step of these tests."""

    unit: str = "words"
    fail: bool = False


@pytest.fixture(autouse=True)
def count_step(monkeypatch):
    """A step as a user would add one: it counts, fails when told to, and leaves a note for its next attempt."""
    monkeypatch.setattr("feilun.pipeline.steps.STEPS", STEPS)
    CALLS.clear()

    @step("count", version=1)
    def count(source: Source, settings: CountSettings, work: Workspace) -> Dataset:
        resumed = (work.scratch / "note").exists()
        (work.scratch / "note").write_text("half-way")
        CALLS.append("resumed" if resumed else "run")
        if settings.fail:
            raise DataError("told to fail")
        text = (source.path / "data.txt").read_text()
        amount = len(text.split() if settings.unit == "words" else text)
        (work.folder / "count.json").write_text(json.dumps(amount))
        return work.finish(Dataset, [source], amount=amount)

    yield
    del STEPS["count"]


@pytest.fixture
def store(tmp_path):
    with open_database(f"sqlite:///{tmp_path / 'events.db'}") as database:
        yield ArtifactStore(tmp_path / "artifacts", database)


class Files:
    """Outside references as files of a folder: what the catalogue does for paths, and nothing else."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def identity(self, reference: str) -> str | None:
        if not (self.folder / reference).exists():
            raise DataError(f"there is no {reference}", hint="write it")
        return (self.folder / reference).read_text()

    def fetch(self, reference: str, kind: type) -> Files:
        self.files = self.folder / "fetched"
        self.files.mkdir()
        (self.files / "data.txt").write_text((self.folder / reference).read_text())
        self.facts = {"format": "text"}
        return self


def project(root: Path, **settings) -> Project:
    section = Section(STEPS["count"], "count.a", CountSettings(**settings), {"source": "words.txt"}, 1)
    return Project("test", root, {"count.a": section}, {})


@pytest.fixture
def outside(tmp_path):
    (tmp_path / "words.txt").write_text("one two three")
    return Files(tmp_path)


def run(store, outside, **settings):
    plan = planning.make(project(store.folder, **settings), store, outside)
    return plan, list(planning.execute(plan, store, outside))


def test_the_second_run_does_nothing_and_says_so(store, outside):
    first_plan, first = run(store, outside)
    second_plan, second = run(store, outside)
    assert (first_plan.to_run, second_plan.to_run) == (1, 0)
    assert CALLS == ["run"] and second[0].reused and not first[0].reused
    assert first[0].artifact == second[0].artifact
    assert second_plan.steps[0].reason.startswith("known as")


def test_a_changed_setting_or_input_runs_again_and_the_plan_says_which(store, outside, tmp_path):
    run(store, outside)
    plan = planning.make(project(store.folder, unit="characters"), store, outside)
    assert plan.steps[0].reason == "unit words -> characters"
    (tmp_path / "words.txt").write_text("four")
    assert planning.make(project(store.folder), store, outside).steps[0].reason == "words.txt is not in the store yet"


def test_a_missing_input_blocks_with_its_hint(store, outside, tmp_path):
    (tmp_path / "words.txt").unlink()
    planned = planning.make(project(store.folder), store, outside).steps[0]
    assert planned.state == "blocked" and "write it" in planned.reason


def test_a_failed_attempt_is_recorded_and_the_next_resumes_from_its_scratch(store, outside):
    with pytest.raises(DataError):
        run(store, outside, fail=True)
    assert runs.newest(store.database)[0]["outcome"] == "failed"
    assert planning.make(project(store.folder, fail=True), store, outside).steps[0].reason == "the last attempt failed"
    with pytest.raises(DataError):
        run(store, outside, fail=True)
    assert CALLS == ["run", "resumed"]


def test_an_interrupted_attempt_is_recorded_as_that(store, outside, monkeypatch):
    plan = planning.make(project(store.folder), store, outside)

    def interrupt(step, progress):
        raise KeyboardInterrupt

    monkeypatch.setattr(Workspace, "finish", lambda *_, **__: interrupt(None, None))
    with pytest.raises(KeyboardInterrupt):
        list(planning.execute(plan, store, outside))
    assert runs.newest(store.database)[0]["outcome"] == "interrupted"
    assert not list((store.folder / "partial").iterdir())


def test_two_processes_never_do_the_same_work_at_once(store, outside):
    plan = planning.make(project(store.folder), store, outside)
    source = planning.bring_in(store, outside, "words.txt", Source)
    print_ = fingerprint("count", 1, {"unit": "words", "fail": False}, {"source": source.digest})
    scratch = store.folder / "scratch" / print_
    scratch.mkdir(parents=True)
    with (scratch / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConflictError, match=r"another process is running count\.a"):
            list(planning.execute(plan, store, outside))
    assert [o.reused for o in planning.execute(plan, store, outside)] == [False]


def test_a_changed_byte_of_an_input_stops_the_step(store, outside):
    source = planning.bring_in(store, outside, "words.txt", Source)
    (source.path / "data.txt").write_text("one two threE")
    with pytest.raises(ArtifactError, match="was changed"):
        run_step(store, STEPS["count"], CountSettings(), {"source": source}, name="count.a")
    assert CALLS == []


def test_another_database_over_the_same_folder_reuses_what_is_there(store, outside, tmp_path):
    run(store, outside)
    with open_database(f"sqlite:///{tmp_path / 'other.db'}") as database:
        other = ArtifactStore(store.folder, database)
        plan, outcomes = run(other, outside)
        assert plan.to_run == 0 and outcomes[0].reused
        assert [r["step"] for r in runs.newest(database)] == ["count", "import"]
    assert CALLS == ["run"]


def test_a_result_that_was_removed_by_hand_is_made_again(store, outside):
    _, (outcome,) = run(store, outside)
    (outcome.artifact.path / "manifest.json").unlink()
    _, (again,) = run(store, outside)
    assert again.artifact.digest == outcome.artifact.digest and CALLS == ["run", "run"]


@pytest.mark.parametrize("file", ["count.json", "manifest.json"])
def test_a_damaged_result_is_made_again_and_takes_its_place(store, outside, file):
    _, (outcome,) = run(store, outside)
    (outcome.artifact.path / file).write_text("damaged")
    _, (again,) = run(store, outside)
    assert again.artifact.digest == outcome.artifact.digest and CALLS == ["run", "run"]
    store.verify(store.get(outcome.artifact.digest))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
settings_dicts = st.dictionaries(st.text(min_size=1, max_size=6), values, max_size=4)


@given(settings_dicts, settings_dicts)
def test_equal_settings_have_equal_fingerprints_and_no_others(a, b):
    shuffled = dict(reversed(list(a.items())))
    assert fingerprint("s", 1, a, {}) == fingerprint("s", 1, shuffled, {})
    assert (fingerprint("s", 1, a, {}) == fingerprint("s", 1, b, {})) == (canonical(a) == canonical(b))
    assert fingerprint("s", 1, a, {}) != fingerprint("s", 2, a, {})


def test_whoever_watches_a_step_sees_everything_and_may_stop_it(store, outside):
    source = planning.bring_in(store, outside, "words.txt", Source)
    seen: list[float] = []

    @step("long", version=1)
    def long(source: Source, settings: CountSettings, work: Workspace) -> Dataset:
        (work.scratch / "begun").touch()
        for i in range(1000):  # far faster than ten times a second
            work.record("counting", i, 1000, so_far=float(i))
        raise AssertionError("nobody stopped it")

    def watch(outcome):
        def look(progress, metrics):
            seen.append(metrics["so_far"])
            if progress.done == 5:
                raise Stopped(outcome, "enough")

        return look

    for outcome, left in (("interrupted", True), ("pruned", False)):
        seen.clear()
        with pytest.raises(Stopped, match="enough"):
            run_step(store, STEPS["long"], CountSettings(), {"source": source}, name="long", watch=watch(outcome))
        assert seen == [0, 1, 2, 3, 4, 5]
        last = runs.newest(store.database, limit=1)[0]
        assert (last["outcome"], last["error"], last["output"]) == (outcome, "enough", None)
        assert any((store.folder / "scratch").glob("*/begun")) == left
        assert not any((store.folder / "partial").iterdir())
    del STEPS["long"]
