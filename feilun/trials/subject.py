"""A section of finetune with its inputs at hand, to be trained again and again in other ways."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import feilun.evaluate.step  # each registers its step
import feilun.finetune.step
import feilun.trials.step  # noqa: F401
from feilun.errors import ProjectError, did_you_mean
from feilun.evaluate.settings import EvaluateSettings
from feilun.finetune.settings import FinetuneSettings
from feilun.pipeline import plan as planning
from feilun.pipeline.execute import Inputs, Observer, Outcome, run_step
from feilun.pipeline.kinds import Dataset, Model, Report
from feilun.pipeline.project import Project, Section, is_internal
from feilun.pipeline.steps import STEPS, Settings, Watch
from feilun.store.artifacts import Artifact, ArtifactStore
from feilun.store.money import Money

RESAMPLES = 200  # of the bootstrap of one report: what counts here is how reports differ


@dataclass(frozen=True)
class Subject:
    """What is trained; ``core_hour`` is the price of an hour of one core, ``home`` where a search is remembered."""

    section: str
    settings: FinetuneSettings
    inputs: Inputs
    store: ArtifactStore
    home: Path
    core_hour: Money
    observe: Observer | None = None
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def examples(self) -> Dataset:
        """The rows that the section learns from."""
        found = self.inputs["examples"]
        assert isinstance(found, Dataset)
        return found

    def train(
        self, name: str, settings: FinetuneSettings, *, examples: Dataset | None = None, watch: Watch | None = None
    ) -> Outcome:
        """Train once: a run like any other, reused where it is known and resumed where it was interrupted."""
        inputs = {**self.inputs, "examples": examples or self.examples}
        return self._run(name, "finetune", settings, inputs, watch)

    def divide(self, name: str, verb: str, settings: Settings, examples: Dataset | None = None) -> Dataset:
        """A dataset derived from the section's own, by the step ``verb``."""
        made = self._run(name, verb, settings, {"examples": examples or self.examples}).artifact
        assert isinstance(made, Dataset)
        return made

    def judge(self, name: str, model: Artifact, examples: Dataset, watch: Watch | None = None) -> dict[str, Any]:
        """The report on a model's answers to the held-out rows."""
        assert isinstance(model, Model)
        settings = EvaluateSettings(resamples=RESAMPLES)
        made = self._run(name, "evaluate", settings, {"model": model, "examples": (examples,)}, watch).artifact
        assert isinstance(made, Report)
        report: dict[str, Any] = json.loads((made.path / "report.json").read_bytes())
        return report

    def _run(self, name: str, verb: str, settings: Settings, inputs: Inputs, watch: Watch | None = None) -> Outcome:
        step = STEPS[verb]
        outcome = run_step(self.store, step, settings, inputs, name=name, observe=self.observe, watch=watch)
        self.outcomes.append(outcome)
        return outcome


def section_of(project: Project, name: str | None) -> Section:
    """The section of finetune that is called so, with or without the verb, or the only one.

    Raises:
        ProjectError: there is none, or several and no name.
    """
    known = {key: s for key, s in project.sections.items() if s.step.name == "finetune"}
    if name is None and len(known) == 1:
        return next(iter(known.values()))
    if name is None:
        hint = f"name one: {', '.join(known)}" if known else "begin with [finetune.some-name]"
        raise ProjectError(f"the project has {len(known)} sections of finetune", hint=hint)
    found = known.get(name) or known.get(f"finetune.{name}")
    if found is None:
        raise ProjectError(f"there is no section [{name}] of finetune", hint=did_you_mean(name, known))
    return found


def inputs_of(
    section: Section,
    project: Project,
    store: ArtifactStore,
    outside: planning.Outside,
    observe: Observer | None = None,
) -> Inputs:
    """What a section refers to, made or fetched where it is not there yet."""
    found: dict[str, Artifact | tuple[Artifact, ...] | None] = {}

    def resolve(reference: str, kind: type[Artifact]) -> Artifact:
        if not is_internal(reference):
            return planning.bring_in(store, outside, reference, kind, observe)
        made = {o.name: o.artifact for o in planning.execute(_until(reference), store, outside, observe)}
        return made[reference]

    def _until(reference: str) -> planning.Plan:
        return planning.make(project, store, outside, reference)

    for needed in section.step.inputs:
        given: Any = section.references.get(needed.name)
        if needed.many:
            found[needed.name] = tuple(resolve(one, needed.kind) for one in given or ())
        else:
            found[needed.name] = resolve(str(given), needed.kind) if given else None
    return found


def of(
    section: Section,
    inputs: Inputs,
    store: ArtifactStore,
    *,
    home: Path,
    core_hour: Money,
    observe: Observer | None = None,
) -> Subject:
    """The section, ready to be trained."""
    settings = section.settings
    assert isinstance(settings, FinetuneSettings)
    return Subject(section.name, settings, inputs, store, home, core_hour, observe)


def digests(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs by their digests, for an identity."""
    return {key: value.digest for key, value in sorted(inputs.items()) if isinstance(value, Artifact)}
