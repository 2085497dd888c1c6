"""A tenant's fine-tuning job, from its file to a release of its own.

    file -> prepare -> finetune -> compress -> evaluate -> serve

The new model goes on from the weights behind the release that was asked for, with the settings that the operator's
project has for it; a job may say how long it is trained and how fast. Every box is a step: a job whose
worker died goes on where it stopped. What comes out is registered for its tenant alone. A file may be learned from as
long as it is there: deleting it withdraws the consent, and nothing that learned from it is served afterwards.
"""

from __future__ import annotations

import csv
import io
import json
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, func, select
from ulid import ULID

from feilun.errors import AccessError, ConflictError, DataError, FeilunError, UnavailableError
from feilun.evaluate.settings import EvaluateSettings
from feilun.finetune.settings import FinetuneSettings
from feilun.pipeline.execute import Observer
from feilun.pipeline.kinds import Dataset, Model, Release, Report, Source
from feilun.pipeline.project import Project
from feilun.pipeline.steps import Progress, Stopped
from feilun.store import consents, files, jobs, leases, releases, tables
from feilun.store.artifacts import ArtifactStore, canonical
from feilun.store.jobs import Job
from feilun.store.releases import Pointer
from feilun.turn import Bench, nearest, parent

LEASE_S = 30.0
BEAT_S = 1.0  # how often it is seen whether the job was cancelled
POLL_S = 1.0  # how often it is looked whether there is a job
TELLINGS = 100  # metrics events of a training, about
MOST_EVENTS = 100_000
DOMAIN = "uploaded"
RESULTS = ("step", "train_loss", "held_out")


@dataclass(eq=False)
class _Held:
    """The job as this worker holds it."""

    job: Job
    holder: str
    lost: bool = False  # it was cancelled, or another worker has it
    ended: threading.Event = field(default_factory=threading.Event)
    stop: threading.Event = field(default_factory=threading.Event)  # set: this worker has to end


def work(
    project: Project,
    store: ArtifactStore,
    holder: str,
    *,
    stop: threading.Event | None = None,
    observe: Observer | None = None,
) -> Job | None:
    """Take one job and do it, if there is one; returns it as it was taken.

    What goes wrong with it is written down for its tenant; only what is wrong with the database is raised. Where
    ``stop`` is set meanwhile, the job is put back, to go on where it stopped.

    Raises:
        UnavailableError: the database cannot be reached; the job goes on when its lease has ended.
    """
    job = store.database.write(lambda c: jobs.take(c, holder, LEASE_S))
    if job is None:
        return None
    held = _Held(job, holder, stop=stop or threading.Event())
    beating = threading.Thread(target=_beat, args=(store, held), name="feilun-lease", daemon=True)
    beating.start()
    try:
        done = _Tuning(project, store, held, observe).run()
        store.database.write(lambda c: jobs.end(c, job, holder, "succeeded", **done))
    except Stopped:
        if not held.lost:  # it was cancelled otherwise, or is somebody else's
            back = {"state": "queued", "holder": None, "lease_until": 0, "attempts": job.attempts - 1}
            store.database.write(lambda c: leases.change(c, tables.jobs, job.id, holder, **back))
    except UnavailableError:
        raise
    except FeilunError as error:
        told = {"code": error.name, "message": _told(error), "param": None}
        spent = _spent(store, job)
        store.database.write(lambda c: jobs.end(c, job, holder, "failed", error=told, core_ns=spent))
    finally:
        held.ended.set()
        beating.join()
    return job


class _Tuning:
    """One job being done."""

    def __init__(self, project: Project, store: ArtifactStore, held: _Held, observe: Observer | None) -> None:
        self.store = store
        self.held = held
        self.job = held.job
        base = store.get(self.job.base)
        name = str(base.facts.get("name", self.job.model))
        self.bench = Bench(project, store, name, observe, called=f"job.{self.job.id}", watch=self._watch)
        self._served = parent(store, base, Model)
        self._step = 0.0

    def run(self) -> dict[str, Any]:
        """What is written down about the job at its end.

        Raises:
            Stopped: the job was cancelled.
            FeilunError: it cannot be done.
        """
        task = "prefer" if self.job.said["method"] == "dpo" else str(self._served.facts["task"])
        self._tell("Validating the files")
        self._check_consent()
        examples = self._prepare(task)
        self._tell(
            f"{examples.facts['splits']['train']} rows to learn from, {examples.facts['splits']['test']} held out"
        )
        base = nearest(self.store, self._served, Model, lambda m: m.facts["format"] == "safetensors")
        tuned = self.bench.run("finetune", Model, self._finetuning(task), base=base, examples=examples)
        trained = self.bench.outcomes[-1]
        self._tell("Making it smaller, and measuring it as it will answer")
        small = self.bench.run("compress", Model, self.bench.settings("compress"), model=tuned, examples=examples)
        gate = self.bench.settings("evaluate", require=self._required())
        report = self.bench.run("evaluate", Report, gate, model=small, examples=(examples,))
        serving = self.bench.settings("serve", name=self._name(), fallback=())
        release = self.bench.run("serve", Release, serving, model=small, reports=(report,))
        self._publish(release)
        self._tell(f"New fine-tuned model created: {self._name()}")
        figures = {"step": trained.metrics.get("steps_run", 0), "train_loss": trained.metrics.get("last_loss")}
        figures |= {"full_valid_loss": trained.metrics.get("best_held_out")}
        done: dict[str, Any] = {"release": release.digest, "served": self._name(), "result_file": self._results()}
        tokens = _tokens(tuned, examples, float(trained.metrics.get("epochs_run", 0)))
        told = {**self.job.said, "figures": {k: v for k, v in figures.items() if v is not None}}
        said = canonical(told).decode()
        return done | {"core_ns": _spent(self.store, self.job), "said": said, "trained_tokens": tokens}

    def _prepare(self, task: str) -> Dataset:
        from feilun.prepare.settings import PrepareSettings

        settings = PrepareSettings(contributor="contributor", domain=DOMAIN)
        inputs: dict[str, Any] = {"source": self._source(self.job.training_file, task)}
        if self.job.validation_file is not None:
            inputs["held_out"] = self._source(self.job.validation_file, task)
        return self.bench.run("prepare", Dataset, settings, **inputs)

    def _source(self, identity: str, task: str) -> Source:
        """A file as the steps read it: JSON lines with the columns of the task."""
        file = self._file(identity)
        folder = self.store.folder / "partial" / f"{self.job.id}-{identity}"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "rows.jsonl").open("wb") as rows:
            for number, line in enumerate(files.lines(self.store.database, file), start=1):
                if line.strip():
                    row = _row(line, task, f"{file.filename}, line {number}") | {"contributor": file.id}
                    rows.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        return self.store.add(Source, folder, parents=[], facts={"format": "jsonl", "origin": f"upload {file.id}"})

    def _file(self, identity: str) -> files.File:
        with self.store.database.read() as connection:
            return files.get(connection, self.job.tenant, identity)

    def _finetuning(self, task: str) -> Any:
        """The project's settings for this model with what the job says; the base's own network goes on learning."""
        changes: dict[str, Any] = {"task": task, "architecture": "base", "seed": self._seed}
        given, usual = self.job.said["hyperparameters"], self.bench.settings("finetune")
        assert isinstance(usual, FinetuneSettings)
        if given["n_epochs"] != "auto":
            changes["epochs"] = given["n_epochs"]
        if given["learning_rate_multiplier"] != "auto":
            rate = usual.learning_rate * given["learning_rate_multiplier"]
            changes["learning_rate"] = min(rate, 0.999)
        if given.get("beta", "auto") != "auto":
            changes["beta"] = given["beta"]
        return self.bench.settings("finetune", **changes)

    def _required(self) -> dict[str, float]:
        """What the project's gate asks of all rows; its domains and labels are not those of this file."""
        settings = self.bench.settings("evaluate")
        assert isinstance(settings, EvaluateSettings)
        return {name: value for name, value in settings.require.items() if "." not in name and ":" not in name}

    @property
    def _seed(self) -> int:
        said = self.job.said["seed"]
        return zlib.crc32(self.job.id.encode()) % 2**31 if said is None else int(said)

    def _name(self) -> str:
        """What the model will be asked by: ``ft-BASE-SUFFIX-ID``."""
        parts = ["ft", self.bench.name[:24].strip("-._"), self.job.said["suffix"] or "", self.job.id[-10:].lower()]
        return "-".join(part for part in parts if part)

    def _publish(self, release: Release) -> None:
        """Let the tenant ask it: in one transaction with a last look at its consent, and at the job."""
        self.store.database.write(self._publish_within(release))

    def _publish_within(self, release: Release) -> Callable[[Connection], None]:
        def write(connection: Connection) -> None:
            name = self._name()
            self._must_consent(connection)
            if leases.renew(connection, tables.jobs, self.job.id, self.held.holder, LEASE_S) != "running":
                raise ConflictError("the job was cancelled")
            releases.register_within(connection, release.digest, name, tenant=self.job.tenant)
            if connection.execute(select(tables.pointers.c.name).where(tables.pointers.c.name == name)).first() is None:
                releases.promote_within(connection, Pointer(name, release.digest, 1), f"fine-tuning job {self.job.id}")

        return write

    def _check_consent(self) -> None:
        with self.store.database.read() as connection:
            self._must_consent(connection)

    def _must_consent(self, connection: Connection) -> None:
        allowed = consents.in_force(connection, "learn")
        for identity in (self.job.training_file, self.job.validation_file):
            if identity is not None and (self.job.tenant, identity) not in allowed:
                hint = "upload it again, and make a new job"
                raise AccessError("the file was deleted", status=404, where=identity, hint=hint, code="file-not-found")

    def _results(self) -> str | None:
        """The figures of the training as a file of CSV, as OpenAI's API gives them; None where nothing was trained."""
        with self.store.database.read() as connection:
            told = jobs.events(connection, self.job.id, before=None, limit=MOST_EVENTS)
        rows = {event.data["step"]: event.data for event in reversed(told) if event.type == "metrics"}
        if not rows:
            return None
        table = io.StringIO()
        writer = csv.DictWriter(table, RESULTS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[step] for step in sorted(rows))
        wanted = files.Wanted(self.job.tenant, self.job.key, "fine-tune-results", f"{self.job.id}.csv")
        return files.put(self.store.database, wanted, io.BytesIO(table.getvalue().encode())).id

    def _watch(self, progress: Progress, recorded: Mapping[str, Any]) -> None:
        if self.held.lost or self.held.stop.is_set():
            raise Stopped("interrupted", "the job was cancelled" if self.held.lost else "the worker was stopped")
        if progress.what not in ("training", "held out"):
            return
        far = progress.done - self._step >= max(1.0, progress.total / TELLINGS)
        if far or progress.done >= progress.total or progress.what == "held out":
            self._step = progress.done
            loss, held_out = progress.numbers.get("loss"), progress.numbers.get("held_out")
            named = {"step": int(progress.done), "train_loss": loss, "held_out": held_out}
            figures = {name: value for name, value in named.items() if value is not None}
            said = ", ".join(f"{n.replace('_', ' ')} {v:.4g}" for n, v in figures.items() if n != "step")
            self._tell(f"Step {int(progress.done)}/{int(progress.total)}: {said}", figures)

    def _tell(self, message: str, data: Mapping[str, Any] | None = None) -> None:
        self.store.database.write(lambda c: jobs.tell(c, self.job.id, message, data=data))


def _beat(store: ArtifactStore, held: _Held) -> None:
    """Hold the job until its work has ended; see whether it still is ours."""
    seen = time.monotonic()
    while not held.ended.wait(BEAT_S):
        try:
            state = store.database.write(lambda c: leases.renew(c, tables.jobs, held.job.id, held.holder, LEASE_S))
        except FeilunError:  # the database is away; without it for as long as the lease, the job is nobody's
            held.lost = held.lost or time.monotonic() - seen > LEASE_S
            continue
        seen = time.monotonic()
        held.lost = state != "running"


def _row(line: bytes, task: str, where: str) -> dict[str, Any]:
    """A line as a row of the task, from our own columns or from one of OpenAI's forms.

    ``messages`` that end with an answer; ``prompt`` and ``completion``; ``input``, ``preferred_output`` and
    ``non_preferred_output``. For a model that puts texts under labels, the answer is the label.

    Raises:
        DataError: it is not a JSON object, or its form is incomplete.
    """
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError("the line is not JSON", where=where) from error
    if not isinstance(row, dict):
        raise DataError("the line is no JSON object", where=where)
    try:
        if "preferred_output" in row:
            asked = row["input"]["messages"]
            return {"chosen": asked + row["preferred_output"], "rejected": asked + row["non_preferred_output"]}
        if "messages" in row and task == "classify":
            *_, question, answer = row["messages"]
            return {"text": question["content"], "label": answer["content"]}
        if "prompt" in row:
            names = ("text", "label") if task == "classify" else ("text", "answer")
            return dict(zip(names, (row["prompt"], row["completion"]), strict=True))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError("the line lacks a part of its form", where=where, hint=f"not there: {error}") from error
    return {name: value for name, value in row.items() if name not in ("contributor", "domain", "split")}


def _tokens(tuned: Model, examples: Dataset, epochs: float) -> int:
    """How many tokens were learned from: those of the texts, as often as they were seen."""
    from tokenizers import Tokenizer

    from feilun import datasets

    frame = datasets.read(examples, "train")
    texts = frame["text"].to_list()
    if "messages" in frame.columns:
        texts = ["\n".join(message["content"] for message in each) for each in frame["messages"].to_list()]
    tokenizer = Tokenizer.from_file(str(tuned.path / "tokenizer.json"))
    return round(sum(sum(found.attention_mask) for found in tokenizer.encode_batch(texts)) * epochs)


def _told(error: FeilunError) -> str:
    """What went wrong, for a tenant: no path of the operator's machine."""
    words = [error.what]
    if error.where and not Path(error.where.split(":")[0]).is_absolute():
        words.append(f"at {error.where}")
    return "; ".join([*words, *([error.hint] if error.hint else [])])


def _spent(store: ArtifactStore, job: Job) -> int:
    """Processor time of all steps of a job, whichever worker ran them, in nanoseconds."""
    table = tables.runs.c
    mine = select(func.sum(table.core_ns)).where(table.name.startswith(f"job.{job.id}/", autoescape=True))
    with store.database.read() as connection:
        return int(connection.execute(mine).scalar() or 0)


def forever(
    project: Project,
    store: ArtifactStore,
    stop: threading.Event,
    *,
    once: bool = False,
    poll_s: float = POLL_S,
    observe: Observer | None = None,
) -> Iterator[Job]:
    """Do jobs as they come, one after the other, until ``stop``; the one that is being done then is put back.

    Args:
        once: end where there is none to do now.
    """
    holder = str(ULID())
    while not stop.is_set():
        try:
            job = work(project, store, holder, stop=stop, observe=observe)
        except UnavailableError:  # the database is away; jobs can wait
            job = None
        if job is not None:
            yield job
        elif once:
            return
        else:
            stop.wait(poll_s)
