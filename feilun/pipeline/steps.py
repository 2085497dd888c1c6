"""What a step is: a function from artefacts and settings to one artefact, known by name and version.

The function's annotations say everything: parameters of a kind (``Model``, ``tuple[Dataset, ...]``, ``Model | None``)
are inputs, ``settings`` is its section of the project file, ``work`` is where it writes.
"""

from __future__ import annotations

import inspect
import time
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

from feilun.store.artifacts import Artifact, ArtifactStore

A = TypeVar("A", bound=Artifact)
STEPS: dict[str, Step] = {}


class Settings(BaseModel):
    """A section of the project file: frozen, and every unknown name is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, given: Any, info: ValidationInfo) -> Any:
        """Else ``balance = true`` would be 1. A table's values are refused one by one, by their own types."""
        wanted = _plain_types(cls.model_fields[str(info.field_name)].annotation)
        if wanted & {int, float} and bool not in wanted:
            parts = given if isinstance(given, list | tuple) else [given]
            if any(isinstance(part, bool) for part in parts):
                raise ValueError("a number is needed, not true or false")
        return given


@dataclass(frozen=True)
class Input:
    """One input of a step: which kind, and whether it may be absent or is a list."""

    name: str
    kind: type[Artifact]
    many: bool
    optional: bool


@dataclass(frozen=True)
class Step:
    """A registered step. ``version`` is raised whenever the same inputs would give another result."""

    name: str
    version: int
    run: Callable[..., Artifact]
    settings: type[Settings]
    inputs: tuple[Input, ...]
    output: type[Artifact]
    declared: bool  # whether it may stand in the project file; the others are run by a turn of the wheel
    together: bool = False  # whether all processes that torchrun started do it with each other


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """Raised by whoever watches a step and has seen enough; the attempt is recorded with its ``outcome``.

    Args:
        outcome: "interrupted" keeps the scratch folder, so that the next attempt goes on; "pruned" removes it.
    """

    def __init__(self, outcome: Literal["interrupted", "pruned"], why: str) -> None:
        super().__init__(why)
        self.outcome = outcome
        self.why = why


@dataclass
class Progress:
    """How far a step is; ``total`` 0 means that it cannot say."""

    what: str
    done: float
    total: float
    numbers: dict[str, float] = field(default_factory=dict)


Watch = Callable[[Progress, Mapping[str, Any]], None]  # progress, and what the run has recorded so far


class Workspace:
    """What a step may touch.

    ``folder`` starts empty and becomes the artefact; ``scratch`` survives an interruption, so that a step can resume
    from it, and is removed once the step has finished.
    """

    def __init__(
        self,
        store: ArtifactStore,
        folder: Path,
        scratch: Path,
        observe: Callable[[Progress], None] | None = None,
        *,
        watch: Watch | None = None,
    ) -> None:
        self.store = store
        self.folder = folder
        self.scratch = scratch
        self.metrics: dict[str, Any] = {}
        self._observe = observe or (lambda progress: None)
        self._watch = watch
        self._shown = 0.0
        self._what = ""

    def record(self, what: str, done: float, total: float = 0, **numbers: float) -> None:
        """Show progress, and remember the newest numbers in the run.

        More of the same is shown at most ten times a second; something else (``what``) is always shown. Whoever watches
        the step sees everything, and may stop it.
        """
        self.metrics.update(numbers)
        if self._watch is not None:
            self._watch(Progress(what, done, total, numbers), self.metrics)
        now = time.monotonic()
        if now - self._shown >= 0.1 or done >= total or what != self._what:
            self._shown, self._what = now, what
            self._observe(Progress(what, done, total, numbers))

    def finish(self, kind: type[A], parents: Sequence[Artifact], **facts: Any) -> A:
        """Turn ``folder`` into an artefact; a fact is the same in every run of the step: no times, no paths."""
        return self.store.add(kind, self.folder, parents=[p.digest for p in parents], facts=facts)


def step(
    name: str, *, version: int, declared: bool = True, together: bool = False
) -> Callable[[Callable[..., A]], Callable[..., A]]:
    """Register a function as the step ``name``; it stays callable as it is.

    Args:
        declared: False for a step that a turn of the wheel runs and no project file names.
        together: True for a step that trains: under torchrun every process runs it, the first one records it.
    """

    def register(function: Callable[..., A]) -> Callable[..., A]:
        hints = typing.get_type_hints(function)
        inputs = tuple(
            _input(parameter, hints[parameter])
            for parameter in inspect.signature(function).parameters
            if parameter not in ("settings", "work")
        )
        STEPS[name] = Step(name, version, function, hints["settings"], inputs, hints["return"], declared, together)
        return function

    return register


def _plain_types(annotation: Any) -> set[Any]:
    """What a value may be, through unions, lists and the like."""
    inner = typing.get_args(annotation)
    return {annotation}.union(*(_plain_types(part) for part in inner)) if inner else {annotation}


def _input(name: str, hint: Any) -> Input:
    if typing.get_origin(hint) is tuple:
        return Input(name, typing.get_args(hint)[0], many=True, optional=False)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        kind = next(a for a in typing.get_args(hint) if a is not types.NoneType)
        return Input(name, kind, many=False, optional=True)
    return Input(name, hint, many=False, optional=False)
