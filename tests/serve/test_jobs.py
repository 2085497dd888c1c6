"""/v1/fine_tuning/jobs: OpenAI's client uploads, a worker learns, and the tenant, and nobody else, asks the result."""

from __future__ import annotations

import csv
import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from sqlalchemy import select, update

import feilun.flywheel  # noqa: F401 - registers every step
from faults.house import PEPPER, House, Running, gateway
from feilun import tuning
from feilun.pipeline.kinds import Model, Release
from feilun.pipeline.project import Project, Section
from feilun.pipeline.steps import STEPS
from feilun.store import jobs, leases, releases, tables
from tests.models import tiny
from tests.serve.uploading import Customer, until

SETTINGS = {
    "finetune": {**tiny.QUICK, "epochs": 3, "checkpoint_steps": 4},
    "compress": {"quantise": "none"},
    "evaluate": {"resamples": 100},
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tiny.Bench]:
    made = tiny.Bench(tmp_path_factory.mktemp("jobs"))
    yield made
    made.store.database.close()


@pytest.fixture(scope="module")
def open_(bench: tiny.Bench) -> Iterator[tuple[House, Running]]:
    """A gateway that serves a tiny model, tuned to tell good from bad."""
    examples = bench.examples(tiny.frame(120, labels=["bad", "good"]))
    tuned = bench.run("finetune", Model, tiny.QUICK, base=bench.base(), examples=examples)
    small = bench.run("compress", Model, {"quantise": "none"}, model=tuned, examples=examples)
    release = bench.run("serve", Release, {"name": "words"}, model=small, reports=())
    releases.register(bench.store.database, release)
    releases.promote(bench.store.database, "words", release.digest, expected_version=0, reason="first")
    url = f"sqlite:///{bench.folder / 'events.db'}"
    house = House(url, bench.folder, bench.store.database, bench.store, release)
    with gateway(house, batch_poll_s=0.1, poll_s=0.05) as running:
        yield house, running


@pytest.fixture(scope="module")
def project(bench: tiny.Bench) -> Project:
    sections = {
        f"{verb}.words": Section(STEPS[verb], f"{verb}.words", STEPS[verb].settings(**settings), {}, 1)
        for verb, settings in SETTINGS.items()
    }
    return Project("tiny", bench.folder, sections, {})


def rows(count: int = 120, seed: int = 1, labels: tuple[str, ...] = ("bad", "fair", "good")) -> list[dict[str, Any]]:
    return tiny.frame(count, labels=labels, seed=seed).select("text", "label").to_dicts()


def chat(row: dict[str, Any]) -> dict[str, Any]:
    """The same in OpenAI's form."""
    said = [{"role": "system", "content": "judge"}, {"role": "user", "content": row["text"]}]
    return {"messages": [*said, {"role": "assistant", "content": row["label"]}]}


@pytest.mark.parametrize("form", ["own", "openai"])
def test_a_file_becomes_a_model_that_its_tenant_alone_can_ask(
    open_: tuple[House, Running], project: Project, form: str
) -> None:
    house, running = open_
    anna, other = Customer(house, running, f"anna-{form}"), Customer(house, running, f"other-{form}")
    given = rows() if form == "own" else [chat(row) for row in rows()]
    file = anna.upload(given, "fine-tune")
    held_out = anna.upload([chat(row) for row in rows(40, seed=9)], "fine-tune")
    method = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 8}}}
    asked = {"model": "words", "training_file": file, "method": method, "seed": 7, "suffix": "mood"}
    job = anna.api.fine_tuning.jobs.create(**asked, validation_file=held_out, metadata={"for": "a test"})
    assert (job.status, job.model, job.fine_tuned_model, job.seed) == ("queued", "words", None, 7)
    assert job.metadata == {"for": "a test"} and job.method.supervised.hyperparameters.n_epochs == 8
    assert [job.id for job in other.api.fine_tuning.jobs.list()] == []

    done = list(tuning.forever(project, house.store, threading.Event(), once=True))
    assert [job.id for job in done] == [job.id]
    job = anna.api.fine_tuning.jobs.retrieve(job.id)
    assert (job.status, job.error) == ("succeeded", None), job
    name = job.fine_tuned_model
    assert name.startswith("ft-words-mood-") and job.finished_at >= job.created_at and job.core_seconds > 0
    assert job.trained_tokens > 1_000

    events = list(anna.api.fine_tuning.jobs.list_events(job.id, limit=5))
    assert events[-1].message.startswith("Created fine-tuning job") and events[0].message.endswith("completed")
    figures = [event.data for event in events if event.type == "metrics"]
    assert figures and all({"step", "train_loss"} <= set(figure) for figure in figures)
    table = list(csv.DictReader(io.StringIO(anna.api.files.content(job.result_files[0]).text)))
    assert int(table[-1]["step"]) == max(figure["step"] for figure in figures)
    (checkpoint,) = anna.api.fine_tuning.jobs.checkpoints.list(job.id)
    assert checkpoint.fine_tuned_model_checkpoint == name and checkpoint.step_number == int(table[-1]["step"])

    body = {"model": name, "input": [row["text"] for row in rows(30, seed=5)]}
    reply = until(lambda: anna.get("/v1/classify", method="POST", json=body), lambda r: r.status_code == 200)
    said = [result["label"] for result in reply.json()["results"]]
    assert sum(a == row["label"] for a, row in zip(said, rows(30, seed=5), strict=True)) > 20
    assert reply.json()["release"] == job.release
    absent = other.get("/v1/classify", method="POST", json=body | {"model": "absent"})
    refused = other.get("/v1/classify", method="POST", json=body)
    assert (refused.status_code, refused.content) == (404, absent.content)
    assert name in {model.id for model in anna.api.models.list()}
    assert name not in {model.id for model in other.api.models.list()}
    with house.database.read() as connection:
        kept = connection.execute(select(tables.jobs).where(tables.jobs.c.id == job.id)).one()
    assert kept.core_ns == round(job.core_seconds * 1e9)


def test_another_tenants_job_is_as_if_it_were_not_there_case_35(open_: tuple[House, Running]) -> None:
    hers, other = Customer(*open_, "bea"), Customer(*open_, "cora")
    job = hers.api.fine_tuning.jobs.create(model="words", training_file=hers.upload(rows(), "fine-tune")).id
    for method, path in (("GET", ""), ("POST", "/cancel"), ("GET", "/events"), ("GET", "/checkpoints")):
        names = (job, "ftjob-01ARZ3NDEKTSV4RRFFQ69G5FAV")
        replies = [other.get(f"/v1/fine_tuning/jobs/{name}{path}", method=method) for name in names]
        assert [r.status_code for r in replies] == [404, 404] and replies[0].content == replies[1].content
    file = hers.upload(rows(), "fine-tune")
    with pytest.raises(openai.NotFoundError):
        other.api.fine_tuning.jobs.create(model="words", training_file=file)
    assert hers.api.fine_tuning.jobs.cancel(job).status == "cancelled"
    with pytest.raises(openai.ConflictError):
        hers.api.fine_tuning.jobs.cancel(job)


@pytest.mark.parametrize(
    ("change", "status", "where"),
    [
        ({"model": "absent"}, 404, "model"),
        ({"training_file": "file-0"}, 404, None),
        ({"training_file": "batch"}, 422, "training_file"),
        ({"method": {"type": "reinforcement"}}, 422, "method.type"),
        ({"method": {"type": "supervised", "dpo": {}}}, 422, "method.dpo"),
        ({"hyperparameters": {"batch_size": 4}}, 422, "hyperparameters.batch_size"),
        ({"hyperparameters": {"n_epochs": 10**9}}, 422, None),
        ({"suffix": "../x"}, 422, "suffix"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "p"}}]}, 422, "integrations"),
        ({"tenant": "anna"}, 422, "tenant"),
        ({"base_url": "http://127.0.0.1"}, 422, "base_url"),
    ],
)
def test_a_job_that_cannot_be_is_refused_cases_36_37(
    open_: tuple[House, Running], dora: Customer, change: dict[str, Any], status: int, where: str | None
) -> None:
    if change.get("training_file") == "batch":
        change = {"training_file": dora.upload(rows(4), "batch")}
    asked = {"model": "words", "training_file": dora.upload(rows(4), "fine-tune")}
    reply = dora.get("/v1/fine_tuning/jobs", method="POST", json=asked | change)
    assert reply.status_code == status, reply.text
    if where is not None:
        assert reply.json()["error"]["where"] == where
    assert list(dora.api.fine_tuning.jobs.list()) == []


@pytest.fixture(scope="module")
def dora(open_: tuple[House, Running]) -> Customer:
    return Customer(*open_, "dora")


def ends(customer: Customer, project: Project, job: str) -> Any:
    """What becomes of the one job that there is."""
    list(tuning.forever(project, customer.house.store, threading.Event(), once=True))
    return customer.api.fine_tuning.jobs.retrieve(job)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([{"text": "a", "label": "b"}] * 50, "two labels"),
        ([{"messages": [{"role": "user"}]}] * 20, "line 1"),
        ([{"other": "a"}] * 20, "text"),
        ([7], "line 1"),
    ],
)
def test_a_file_that_cannot_be_learned_from_fails_its_job_and_says_why_case_44(
    dora: Customer, project: Project, given: list[Any], words: str
) -> None:
    made = dora.api.fine_tuning.jobs.create(model="words", training_file=dora.upload(given, "fine-tune"))
    failed = ends(dora, project, made.id)
    assert failed.status == "failed" and failed.fine_tuned_model is None
    assert words in failed.error.message and str(dora.house.folder) not in failed.error.message
    house = dora.house
    house.database.write(lambda c: c.execute(tables.job_events.delete().where(tables.job_events.c.job == made.id)))
    house.database.write(lambda c: c.execute(tables.jobs.delete().where(tables.jobs.c.id == made.id)))


def test_a_deleted_file_is_not_learned_from(open_: tuple[House, Running], project: Project) -> None:
    customer = Customer(*open_, "emma")
    file = customer.upload(rows(), "fine-tune")
    job = customer.api.fine_tuning.jobs.create(model="words", training_file=file)
    customer.api.files.delete(file)
    failed = ends(customer, project, job.id)
    assert (failed.status, failed.error.code) == ("failed", "file-not-found")


def test_a_cancelled_job_stops_in_mid_training_and_serves_nothing(
    open_: tuple[House, Running], project: Project
) -> None:
    house, running = open_
    customer = Customer(house, running, "fina")
    job = _long_job(customer)
    working = threading.Thread(target=lambda: tuning.work(project, house.store, "holder-one"))
    working.start()
    _trains(customer, job)
    assert customer.api.fine_tuning.jobs.cancel(job).status == "cancelled"
    working.join(30)
    assert not working.is_alive()
    assert customer.api.fine_tuning.jobs.retrieve(job).fine_tuned_model is None
    assert [m.id for m in customer.api.models.list() if m.id.startswith("ft-")] == []


def test_a_killed_workers_job_goes_on_from_its_checkpoint_case_47(
    open_: tuple[House, Running], project: Project, tmp_path: Path
) -> None:
    house, running = open_
    customer = Customer(house, running, "gina")
    job = _long_job(customer, epochs=20)
    code = (
        "import sys; from pathlib import Path; from tests.serve.test_jobs import work_until_killed; "
        "work_until_killed(Path(sys.argv[1]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(house.folder)], cwd=Path(__file__).parents[2])
    try:
        _trains(customer, job, step=12)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    table = tables.jobs
    assert list(tuning.forever(project, house.store, threading.Event(), once=True)) == []  # it is held still
    house.database.write(lambda c: c.execute(update(table).where(table.c.id == job).values(lease_until=1)))
    with house.database.read() as connection:
        seen = len(jobs.events(connection, job, before=None, limit=1_000))
    done = ends(customer, project, job)
    assert done.status == "succeeded", done
    with house.database.read() as connection:
        news = jobs.events(connection, job, before=None, limit=1_000)[:-seen][::-1]
    first = next(event.data["step"] for event in news if event.type == "metrics")
    assert first > 10, "it did not begin anew"
    assert news[0].message == "Fine-tuning job goes on"


def test_a_job_that_kills_its_workers_fails_in_the_end_case_48(open_: tuple[House, Running]) -> None:
    customer = Customer(*open_, "hanna")
    database, table = customer.house.database, tables.jobs
    job = customer.api.fine_tuning.jobs.create(model="words", training_file=customer.upload(rows(9), "fine-tune")).id
    for attempt in range(jobs.MOST_ATTEMPTS):
        taken = database.write(lambda c, n=attempt: jobs.take(c, f"holder-{n}", 30))
        assert taken is not None and taken.id == job
        assert database.write(lambda c: jobs.take(c, "another", 30)) is None
        database.write(lambda c: c.execute(update(table).values(lease_until=1)))
    assert database.write(lambda c: jobs.take(c, "last", 30)) is None
    assert customer.api.fine_tuning.jobs.retrieve(job).error.code == "worker-died"
    assert not database.write(lambda c: leases.change(c, table, job, "holder-0", state="running"))


def test_a_worker_that_is_told_to_end_puts_its_job_back(open_: tuple[House, Running], project: Project) -> None:
    house, running = open_
    customer = Customer(house, running, "ines")
    job = _long_job(customer)
    stop = threading.Event()
    working = threading.Thread(target=lambda: tuning.work(project, house.store, "holder-two", stop=stop))
    working.start()
    _trains(customer, job)
    stop.set()
    working.join(30)
    assert customer.api.fine_tuning.jobs.retrieve(job).status == "queued"
    with house.database.read() as connection:
        assert jobs.get(connection, "ines", job).attempts == 0
    customer.api.fine_tuning.jobs.cancel(job)


def _long_job(customer: Customer, epochs: int = 50) -> str:
    method = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": epochs}}}
    file = customer.upload(rows(300, seed=3), "fine-tune")
    return str(customer.api.fine_tuning.jobs.create(model="words", training_file=file, method=method).id)


def _trains(customer: Customer, job: str, step: int = 1) -> None:
    def steps() -> int:
        events = customer.api.fine_tuning.jobs.list_events(job, limit=50).data
        return max((event.data.get("step", 0) for event in events), default=0)

    until(steps, lambda found: found >= step)


def work_until_killed(folder: Path) -> None:
    """A worker in a process of its own, over the same store."""
    from feilun.store.artifacts import ArtifactStore
    from feilun.store.migrations import open_database

    assert PEPPER and os.getpid()
    database = open_database(f"sqlite:///{folder / 'events.db'}")
    sections = {
        f"{verb}.words": Section(STEPS[verb], f"{verb}.words", STEPS[verb].settings(**settings), {}, 1)
        for verb, settings in SETTINGS.items()
    }
    tuning.work(Project("tiny", folder, sections, {}), ArtifactStore(folder / "artifacts", database), "to-be-killed")
