"""A model asked for rows: what it said, and how right that is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from feilun.pipeline.kinds import Model
from feilun.tasks import decisions

if TYPE_CHECKING:
    import polars as pl

    from feilun.tasks.metrics import Metric
    from feilun.tasks.task import Answered, Task


@dataclass(frozen=True)
class Asked:
    """N rows of ``frame``, and what ``model`` said of them; ``metrics`` count it against the truth."""

    model: Model
    task: Task
    engine: Any
    frame: pl.DataFrame
    answered: Answered
    labels: tuple[str, ...]
    metrics: list[Metric]

    @property
    def truth(self) -> NDArray[np.int64]:
        """Each row's class, (N,), of a task of one label."""
        from feilun.tasks import metrics

        return metrics.numbers(self.frame["label"].to_list(), self.labels)

    @property
    def probabilities(self) -> NDArray[np.float32] | None:
        """(N, C) where the answer is one label with a score for each, else None."""
        raw = self.answered.raw
        fits = isinstance(raw, np.ndarray) and raw.shape == (self.frame.height, len(self.labels))
        return raw if self.task.HEAD == "label" and "label" in self.frame.columns and fits else None


def ask(model: Model, frame: pl.DataFrame) -> Asked:
    """Load a model and ask it for every row.

    Raises:
        ArtifactError: the model has no task yet, or its files cannot be read.
        DataError: a row has a label that the model does not know.
    """
    from feilun import tasks

    task = tasks.of(model)
    engine = task.load(model)
    labels: tuple[str, ...] = tuple(model.facts.get("labels") or getattr(engine, "labels", None) or ())
    return _asked(Asked(model, task, engine, frame, task.answer(engine, frame), labels, []))


def again(asked: Asked, frame: pl.DataFrame) -> Asked:
    """Ask the same engine for other rows."""
    answered = asked.task.answer(asked.engine, frame)
    return _asked(Asked(asked.model, asked.task, asked.engine, frame, answered, asked.labels, []))


def _asked(asked: Asked) -> Asked:
    asked.metrics.extend(asked.task.measure(asked.frame, asked.answered, asked.labels))
    return asked


def same(one: Answered, other: Answered) -> NDArray[np.bool_] | None:
    """Whether each answer is the same, (N,), scores aside; None where the answers are nothing but numbers."""
    pairs = [(decisions.of(a), decisions.of(b)) for a, b in zip(one.said, other.said, strict=True)]
    return np.array([a == b for a, b in pairs]) if any(a or b for a, b in pairs) else None
