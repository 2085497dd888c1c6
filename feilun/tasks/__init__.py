"""One file a task: how examples become tensors, the loss, and how outputs become answers and figures."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, cast

from feilun.errors import ArtifactError, SettingError, did_you_mean
from feilun.pipeline.kinds import Model

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl

    from feilun.tasks.task import Answered, Task

NAMES = (
    "classify",
    "embed",
    "extract",
    "generate",
    "multilabel",
    "pair",
    "prefer",
    "rank",
    "regress",
    "similarity",
    "tag",
)
# a task that is meant where the dataset has this column and not the task's own
MEANT = {("classify", "labels"): "multilabel", ("pair", "score"): "similarity"}


def get(name: str) -> Task:
    """The task of that name.

    Raises:
        SettingError: there is none.

    >>> get("clasify")
    Traceback (most recent call last):
    feilun.errors.SettingError: error[unknown-task]: there is no task 'clasify'
      hint  did you mean 'classify'?
    """
    if name not in NAMES:
        hint = did_you_mean(name, NAMES) or f"there is {', '.join(NAMES)}"
        raise SettingError(f"there is no task '{name}'", hint=hint, code="unknown-task")
    return cast("Task", importlib.import_module(f"feilun.tasks.{name}"))


def meant(name: str, columns: Sequence[str]) -> str:
    """The task that fits the dataset: to classify rows with any number of labels is ``multilabel``, a pair with a score
    is a ``similarity``; whoever writes ``task = "classify"`` need not know that.

    >>> meant("classify", ["id", "text", "labels"]), meant("classify", ["id", "text", "label", "labels"])
    ('multilabel', 'classify')
    """
    for (short, column), task in MEANT.items():
        if name == short and column in columns and "label" not in columns:
            return task
    return name


def of(model: Model) -> Task:
    """The task that a model was tuned for.

    Raises:
        ArtifactError: none: it is a base.
    """
    if "task" not in model.facts:
        raise ArtifactError("the model has no task", where=model.short, hint="finetune it first")
    return get(str(model.facts["task"]))


def ask(model: Model, frame: pl.DataFrame) -> Answered:
    """What a model says of each row, whatever its task and format.

    Args:
        frame: N rows with the columns that the task reads; ``text`` is always one of them.
    """
    task = of(model)
    return task.answer(task.load(model), frame)
