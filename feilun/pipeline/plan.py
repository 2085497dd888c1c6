"""What would be done and why, before anything is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from sqlalchemy import select

from feilun.errors import FeilunError, ProjectError, did_you_mean
from feilun.pipeline.execute import Observer, Outcome, fingerprint, known, leave_record, run_step, step_fingerprint
from feilun.pipeline.project import Project, Section, is_internal
from feilun.pipeline.steps import Progress
from feilun.store import runs, tables
from feilun.store.artifacts import Artifact, ArtifactStore

State = Literal["reuse", "run", "blocked"]


class Fetched(Protocol):
    """Files that came from outside, and what is known of them."""

    @property
    def files(self) -> Path:
        """A folder of ours alone."""

    @property
    def facts(self) -> dict[str, Any]:
        """Format, licence, origin."""


class Outside(Protocol):
    """Where references that name no section are looked up: the catalogue, a hub, a path, a URL, a query."""

    def identity(self, reference: str) -> str | None:
        """What pins its content without fetching it; None when only fetching can tell."""

    def fetch(self, reference: str, kind: type[Artifact]) -> Fetched:
        """The files themselves."""


@dataclass(frozen=True)
class PlannedStep:
    """One step of a plan: its state, and the reason in words."""

    section: Section
    state: State
    reason: str
    output: Artifact | None = None
    missing: tuple[FeilunError, ...] = ()  # why it is blocked, of what it takes from outside


@dataclass(frozen=True)
class Plan:
    """The steps in the order in which they can run."""

    steps: tuple[PlannedStep, ...]

    @property
    def to_run(self) -> int:
        """How many steps are not reused."""
        return sum(step.state != "reuse" for step in self.steps)


def make(project: Project, store: ArtifactStore, outside: Outside, until: str | None = None) -> Plan:
    """Decide for each section whether its result is known.

    Args:
        until: a stage (``compress``) or a section (``compress.reviews``): only what that needs is planned.
    """
    planned: dict[str, PlannedStep] = {}
    for section in _in_order(project, until):
        planned[section.name] = _plan_one(section, planned, store, outside)
    return Plan(tuple(planned.values()))


def execute(plan: Plan, store: ArtifactStore, outside: Outside, observe: Observer | None = None) -> Iterator[Outcome]:
    """Run a plan, yielding each step's outcome as it comes.

    Raises:
        FeilunError: something from outside is known not to be there, before any step runs; else the first step that
            fails ends the run; what finished before it is kept and reused next time.
    """
    _check(plan)
    made: dict[str, Artifact] = {}
    for planned in plan.steps:
        section = planned.section

        def resolve(reference: str, kind: type[Artifact]) -> Artifact:
            return made[reference] if is_internal(reference) else bring_in(store, outside, reference, kind, observe)

        inputs: dict[str, Artifact | tuple[Artifact, ...] | None] = {}
        for needed in section.step.inputs:
            given = section.references.get(needed.name)
            if needed.many:
                inputs[needed.name] = tuple(resolve(r, needed.kind) for r in given or ())
            else:
                inputs[needed.name] = resolve(str(given), needed.kind) if given else None
        outcome = run_step(store, section.step, section.settings, inputs, name=section.name, observe=observe)
        made[section.name] = outcome.artifact
        yield outcome


def bring_in(
    store: ArtifactStore, outside: Outside, reference: str, kind: type[Artifact], observe: Observer | None = None
) -> Artifact:
    """An outside reference as an artefact, fetched only if it is not in the store yet."""
    identity = outside.identity(reference)
    if identity and (found := known(store, _import_print(identity, kind))) is not None:
        return found.artifact
    if observe:
        observe(reference, Progress("fetching", 0, 0))
    fetched = outside.fetch(reference, kind)
    artifact = store.add(kind, fetched.files, parents=(), facts=fetched.facts)
    run = runs.Run(
        fingerprint=_import_print(identity or artifact.digest, kind),
        step="import",
        version=1,
        name=reference,
        settings={},
        inputs={},
        metrics={},
        core_ns=0,
        wall_ns=0,
        outcome=runs.FINISHED,
        output=artifact.digest,
    )
    runs.record(store.database, run)
    leave_record(store, run)
    return artifact


def _import_print(identity: str, kind: type[Artifact]) -> str:
    return fingerprint("import", 1, {}, {"identity": identity, "kind": kind.kind})


def _check(plan: Plan) -> None:
    """All that is not there at once, rather than one after each run."""
    missing = {str(error): error for step in plan.steps for error in step.missing}
    if len(missing) == 1:
        raise next(iter(missing.values()))
    if missing:
        raise ProjectError(f"{len(missing)} things from outside are not there\n" + "\n".join(missing))


def _plan_one(section: Section, planned: dict[str, PlannedStep], store: ArtifactStore, outside: Outside) -> PlannedStep:
    digests: dict[str, Any] = {}
    waits: list[str] = []  # inputs whose content is not known yet
    missing: list[FeilunError] = []
    behind: list[str] = []  # steps that are blocked themselves
    for needed in section.step.inputs:
        given = section.references.get(needed.name, ())
        found: list[str] = []
        for reference in (given,) if isinstance(given, str) else given:
            if is_internal(reference):
                upstream = planned[reference]
                if upstream.state == "blocked":
                    behind.append(f"{reference} is blocked")
                    continue
                here = upstream.output
                wait = f"{reference} will be made anew"
            else:
                try:
                    identity = outside.identity(reference)
                except FeilunError as error:
                    missing.append(error)
                    continue
                brought = known(store, _import_print(identity, needed.kind)) if identity else None
                here = brought.artifact if brought else None
                wait = f"{reference} is not in the store yet"
            if here is None:
                waits.append(wait)
            else:
                found.append(here.digest)
        digests[needed.name] = found if needed.many else (found[0] if found else None)
    if missing or behind:
        reasons = [*behind, *(f"{error.what}{f' ({error.hint})' if error.hint else ''}" for error in missing)]
        return PlannedStep(section, "blocked", "; ".join(reasons), missing=tuple(missing))
    if waits:
        return PlannedStep(section, "run", waits[0])
    output = known(store, step_fingerprint(section.step, section.settings, digests))
    if output is not None:
        return PlannedStep(section, "reuse", f"known as {output.artifact.short}", output.artifact)
    return PlannedStep(section, "run", _why(section, digests, store))


def _why(section: Section, digests: dict[str, Any], store: ArtifactStore) -> str:
    """What differs from the last run of the same section."""
    columns = tables.runs.c
    query = (
        select(columns.settings, columns.inputs, columns.version, columns.outcome)
        .where(columns.name == section.name)
        .order_by(columns.finished_at.desc())
        .limit(1)
    )
    with store.database.read() as connection:
        last = connection.execute(query).first()
    if last is None:
        return "never run"
    if last.outcome != runs.FINISHED:
        return f"the last attempt {'was ' if last.outcome == 'interrupted' else ''}{last.outcome}"
    before, now = json.loads(last.settings), section.settings.model_dump(mode="json")
    changes = [f"{k} {before.get(k)} -> {now[k]}" for k in now if before.get(k) != now[k]]
    inputs = json.loads(last.inputs)
    changes += [f"{k} changed" for k, v in digests.items() if inputs.get(k) != v]
    if last.version != section.step.version:
        changes.append(f"the step is now version {section.step.version}")
    return "; ".join(changes) or "its result is no longer in the store"


def _in_order(project: Project, until: str | None) -> list[Section]:
    wanted = list(project.sections)
    if until is not None:
        wanted = [name for name in wanted if until in (name, name.split(".")[0])]
        if not wanted:
            known_names = [*project.sections, *(name.split(".")[0] for name in project.sections)]
            raise ProjectError(
                f"nothing here is called '{until}'", where="--until", hint=did_you_mean(until, known_names)
            )
    ordered: dict[str, Section] = {}

    def visit(name: str) -> None:
        if name in ordered:
            return
        section = project.sections[name]
        for given in section.references.values():
            for reference in (given,) if isinstance(given, str) else given:
                if is_internal(reference):
                    visit(reference)
        ordered[name] = section

    for name in wanted:
        visit(name)
    return list(ordered.values())
