"""One turn of the wheel: feedback in, a candidate, a decision with its numbers, perhaps a promotion.

    corrections -> freeze -> mix with replay -> finetune -> compress -> evaluate -> decide -> promote

Every box is a step with a fingerprint, so a turn that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, func, insert, select
from ulid import ULID

from feilun.errors import ConflictError, DataError, FeilunError, ProjectError, StepError
from feilun.feedback.settings import FeedbackSettings
from feilun.pipeline.execute import Inputs, Observer, Outcome, run_step
from feilun.pipeline.kinds import Dataset, Model, Release, Report
from feilun.pipeline.project import Project
from feilun.pipeline.steps import STEPS, Settings, Watch
from feilun.relearn.decision import Cohort, Decision, OldDomain, Stakes, decide, inputs_per_day
from feilun.relearn.settings import MixSettings, RelearnSettings
from feilun.relearn.step import unlearned
from feilun.store import lineage, releases, tables
from feilun.store.artifacts import Artifact, ArtifactStore, canonical
from feilun.store.consents import in_force
from feilun.store.database import now_us
from feilun.store.money import parse_money

A = TypeVar("A", bound=Artifact)
TASK = "classify"  # what users correct is one label for a text
HOUR_NS = 3600 * 10**9


@dataclass(frozen=True)
class Turn:
    """One revolution: what went in, what came out, and why."""

    id: str
    name: str
    champion: str
    candidate: str | None
    decision: Decision
    promoted: bool
    core_ns: int  # processor time that the candidate cost
    steps: tuple[dict[str, Any], ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        return asdict(self)


class Bench:
    """Runs the steps of one turn, or of a job, and remembers what each cost.

    Args:
        called: what the runs are recorded under.
        watch: sees all that a step records, and may raise ``Stopped``.
    """

    def __init__(
        self,
        project: Project,
        store: ArtifactStore,
        name: str,
        observe: Observer | None,
        *,
        called: str = "",
        watch: Watch | None = None,
    ) -> None:
        self.project = project
        self.store = store
        self.name = name
        self.observe = observe
        self.called = called or f"relearn.{name}"
        self.watch = watch
        self.outcomes: list[Outcome] = []

    def run(self, verb: str, kind: type[A], settings: Settings, **inputs: Any) -> A:
        """Run one step and return its artefact."""
        given: Inputs = inputs
        name = f"{self.called}/{verb}"
        watching: dict[str, Any] = {"observe": self.observe, "watch": self.watch}
        outcome = run_step(self.store, STEPS[verb], settings, given, name=name, **watching)
        self.outcomes.append(outcome)
        if not isinstance(outcome.artifact, kind):
            raise StepError(f"{verb} made a {outcome.artifact.kind}, not a {kind.kind}", where=name)
        return outcome.artifact

    def settings(self, verb: str, **changes: Any) -> Settings:
        """The settings of ``verb.name``, or of the verb's only section, or the defaults; some of them changed."""
        named = {key: s for key, s in self.project.sections.items() if s.step.name == verb}
        only = next(iter(named.values())) if len(named) == 1 else None
        section = named.get(f"{verb}.{self.name}", only)
        base = section.settings if section else STEPS[verb].settings()
        return base.model_copy(update=changes)


def turn(
    project: Project,
    store: ArtifactStore,
    name: str,
    *,
    core_hour_nano: int,
    promote: bool = True,
    observe: Observer | None = None,
) -> Turn:
    """Let the model ``name`` learn from the feedback that is there now.

    Args:
        core_hour_nano: price of a core-hour, nano-units; measured training is charged at it.
        promote: False stops after the decision, which is stored all the same.

    Raises:
        ProjectError: no ``[relearn.<name>]``.
        DataError: too little consented feedback.
        ConflictError: somebody else moved the release pointer meanwhile.
    """
    settings = project.others.get(f"relearn.{name}")
    if not isinstance(settings, RelearnSettings):
        raise ProjectError(f"the project does not say how '{name}' learns", hint=f"add a section [relearn.{name}]")
    bench = Bench(project, store, name, observe)
    pointer = releases.pointer(store.database, name)
    champion = _get(store, pointer.release, Release)
    try:
        learned = _learn(bench, settings, champion)
    except FeilunError as error:
        if bench.outcomes:  # something was paid for: that it came to nothing is kept too
            failed = {"verdict": "failed", "reasons": [str(error)]}
            store.database.write(lambda c: _record(c, str(ULID()), champion, None, failed))
        raise
    spent = sum(o.core_ns for o in bench.outcomes)
    decision = _weigh(store, settings, learned, spent * core_hour_nano // HOUR_NS)
    promoted = promote and decision.verdict == "promote" and learned.release is not None
    done = Turn(
        id=str(ULID()),
        name=name,
        champion=champion.digest,
        candidate=learned.release.digest if learned.release else None,
        decision=decision,
        promoted=promoted,
        core_ns=spent,
        steps=tuple(
            {"name": o.name, "reused": o.reused, "seconds": o.seconds, "core_ns": o.core_ns} for o in bench.outcomes
        ),
    )
    _conclude(store, done, learned, pointer)
    return done


@dataclass(frozen=True)
class _Learned:
    """A candidate beside the champion; ``release`` is None where the candidate missed the project's gate."""

    champion: Release
    served: Model
    candidate: Model
    release: Release | None
    fresh: Dataset
    old: Dataset
    before: Report
    after: Report


def _learn(bench: Bench, settings: RelearnSettings, champion: Release) -> _Learned:
    """Feedback to a compressed, evaluated candidate, from the champion's weights."""
    store = bench.store
    served = parent(store, champion, Model)
    if served.facts.get("task") != TASK:
        raise StepError(
            f"the model that is served does not {TASK}: its task is '{served.facts.get('task')}'",
            where=f"relearn.{bench.name}",
            hint="corrections are one label for a text: finetune again with new rows instead",
            code="task",
        )
    tuned = nearest(store, served, Model, lambda m: m.facts["format"] == "safetensors")
    old = nearest(store, tuned, Dataset, lambda d: True)
    fresh = _freeze(bench, settings)
    _check_enough(fresh, old, settings, bench.name)
    mixed = bench.run("mix", Dataset, MixSettings(replay=settings.replay, seed=settings.seed), feedback=fresh, old=old)
    changes: dict[str, Any] = {
        "epochs": settings.epochs,
        "learning_rate": settings.learning_rate,
        "seed": settings.seed,
    }
    changes |= {"task": TASK, "architecture": "base"}  # the champion's weights go on learning, also those of an LSTM
    learned = bench.run("finetune", Model, bench.settings("finetune", **changes), base=tuned, examples=mixed)
    candidate = bench.run("compress", Model, bench.settings("compress"), model=learned, examples=mixed)
    judged = (fresh, old)
    before = bench.run("evaluate", Report, bench.settings("evaluate", require={}), model=served, examples=judged)
    after = bench.run("evaluate", Report, bench.settings("evaluate"), model=candidate, examples=judged)
    release = None
    if after.facts["passed"]:
        release = bench.run("serve", Release, bench.settings("serve"), model=candidate, reports=(after,))
    return _Learned(champion, served, candidate, release, fresh, old, before, after)


def _weigh(store: ArtifactStore, settings: RelearnSettings, learned: _Learned, cost_nano: int) -> Decision:
    """The decision, from what was measured."""
    value = parse_money(settings.value_per_correct_answer)
    stakes = Stakes(
        horizon_days=settings.horizon_days,
        value_nano=value.nano,
        training_cost_nano=cost_nano,
        max_drop=settings.max_drop,
        min_held_out=settings.min_held_out,
        currency=value.currency,
    )
    gates = {"quality": bool(learned.after.facts["passed"])}
    return decide(_cohorts(store, learned), _old_domains(learned), stakes, gates=gates, seed=settings.seed)


def _freeze(bench: Bench, settings: RelearnSettings) -> Dataset:
    """Feedback up to now, as a dataset."""
    name = bench.name
    served = releases.history(bench.store.database, name)
    answered = tuple(_get(bench.store, digest, Release) for digest in sorted({r.digest for r in served}))
    table = tables.feedback.c
    with bench.store.database.read() as connection:
        newest = [connection.execute(select(func.max(c.at))).scalar() for c in (table, tables.consents.c)]
    if newest[0] is None:
        raise DataError("there is no feedback yet", where=f"relearn.{name}", hint="send some to POST /v1/feedback")
    until = max(at for at in newest if at is not None)
    frozen = FeedbackSettings(name=name, until=until, test_share=settings.test_share)
    used = tuple(r for r in answered if _has_feedback(bench.store, r.digest))
    return bench.run("feedback", Dataset, frozen, releases=used)


def _check_enough(fresh: Dataset, old: Dataset, settings: RelearnSettings, name: str) -> None:
    """Refuse a turn that would learn from too little, or from nothing new."""
    from feilun import datasets

    new = unlearned(datasets.read(fresh), datasets.read(old)).height
    if new < settings.min_feedback:
        raise DataError(
            f"{new} new corrections with consent to learn from, {settings.min_feedback} are needed",
            where=f"relearn.{name}",
            hint="wait for more feedback, or lower min_feedback",
        )


def _conclude(store: ArtifactStore, done: Turn, learned: _Learned, seen: releases.Pointer) -> None:
    """One transaction: consent still holds, the release is known, the decision is stored, the pointer moves.

    Raises:
        ConflictError: somebody withdrew consent, or moved the pointer, while the candidate learned. Nothing is
            promoted; the decision is stored with that as its reason.
    """
    from feilun import datasets

    people = datasets.read(learned.fresh).select("domain", "contributor").unique().rows()
    told = done.decision.as_dict()

    def write(connection: Connection) -> None:
        allowed = in_force(connection, "learn")
        withdrawn = sorted(row for row in people if row not in allowed)
        if withdrawn:
            raise ConflictError(
                f"{len(withdrawn)} contributors withdrew consent while the candidate learned from them",
                where=f"the first is {withdrawn[0][1]} at {withdrawn[0][0]}",
                hint="run it again: their words are left out, and nothing was promoted",
            )
        if learned.release is not None:
            releases.register_within(connection, learned.release.digest, done.name)
        _record(connection, done.id, learned.champion, done.candidate, told)
        if done.promoted and learned.release is not None:
            to = releases.Pointer(done.name, learned.release.digest, seen.version + 1)
            releases.promote_within(connection, to, f"relearn: {done.decision.reasons[-1]}")

    try:
        store.database.write(write)
    except ConflictError as error:
        kept = told | {"verdict": "keep", "reasons": [error.what, *told["reasons"]]}
        store.database.write(lambda c: _record(c, done.id, learned.champion, None, kept))
        raise


def _has_feedback(store: ArtifactStore, release: str) -> bool:
    with store.database.read() as connection:
        found = connection.execute(select(tables.feedback.c.id).where(tables.feedback.c.release == release).limit(1))
        return found.first() is not None


def _cohorts(store: ArtifactStore, learned: _Learned) -> list[Cohort]:
    """Held-out corrections by customer, answered by both models as they are served, beside that customer's traffic."""
    from feilun import datasets, models

    held_out = datasets.read(learned.fresh, "test")
    served, candidate = learned.served, learned.candidate
    texts, truth = held_out["text"].to_list(), held_out["label"].to_list()
    right = {
        m: [a == b for a, b in zip(models.predict(m, texts).labels, truth, strict=True)] for m in (served, candidate)
    }
    domains = held_out["domain"].to_list()
    usage = tables.usage.c
    ours = releases.registered(store.database, str(learned.champion.facts["name"]))
    cohorts = []
    for tenant in sorted(set(domains)):
        with store.database.read() as connection:
            asked = (usage.tenant == tenant) & usage.release.in_(ours)
            traffic = select(func.sum(usage.inputs), func.min(usage.at)).where(asked)
            inputs, first = connection.execute(traffic).one()
            theirs = (tables.feedback.c.tenant == tenant) & tables.feedback.c.release.in_(ours)
            corrected = connection.execute(select(func.count()).where(theirs)).scalar_one()
            per_day = inputs_per_day(inputs or 0, first or 0, now_us(connection))
        rows = [i for i, domain in enumerate(domains) if domain == tenant]
        cohorts.append(
            Cohort(
                name=tenant,
                inputs_per_day=per_day,
                corrected_share=min(1.0, corrected / inputs) if inputs else 0.0,
                champion_right=tuple(right[served][i] for i in rows),
                candidate_right=tuple(right[candidate][i] for i in rows),
            )
        )
    return cohorts


def _old_domains(learned: _Learned) -> list[OldDomain]:
    from feilun import datasets

    names = sorted(datasets.read(learned.old, "test")["domain"].unique())
    figures = [json.loads((r.path / "report.json").read_bytes())["domains"] for r in (learned.before, learned.after)]
    return [OldDomain(n, *(float(f[n]["macro_f1"]["value"]) for f in figures)) for n in names]


def _record(
    connection: Connection, identity: str, champion: Release, candidate: str | None, decision: Mapping[str, Any]
) -> None:
    row = {
        "id": identity,
        "name": champion.facts["name"],
        "champion": champion.digest,
        "candidate": candidate,
        "verdict": decision["verdict"],
        "decision": canonical(decision).decode(),
        "at": now_us(connection),
    }
    connection.execute(insert(tables.turns).values(row))


def _get(store: ArtifactStore, digest: str, kind: type[A]) -> A:
    artifact = store.get(digest)
    if not isinstance(artifact, kind):
        raise StepError(f"{artifact.short} is a {artifact.kind}, not a {kind.kind}")
    return artifact


def parent(store: ArtifactStore, child: Artifact, kind: type[A]) -> A:
    """What an artefact was made from, of a kind."""
    return next(a for a in map(store.get, child.parents) if isinstance(a, kind))


def nearest(store: ArtifactStore, start: Artifact, kind: type[A], fits: Any) -> A:
    """The nearest ancestor of a kind, ``start`` included."""
    with store.database.read() as connection:
        links: Sequence[lineage.Link] = lineage.ancestors(connection, start.digest)
    for link in links:
        if link.kind == kind.kind:
            artifact = store.get(link.digest)
            if isinstance(artifact, kind) and fits(artifact):
                return artifact
    raise StepError(
        f"no {kind.kind} stands behind {start.short}", hint="was the model imported? Then finetune it first"
    )
