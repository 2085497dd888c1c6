"""Training rows that are not learned from, but watched while the others are."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import polars as pl

from feilun.errors import DataError
from feilun.finetune.settings import FinetuneSettings

if TYPE_CHECKING:
    from feilun.tasks.metrics import Metric
    from feilun.tasks.task import Task
    from feilun.training.watching import Watch


def split(frame: pl.DataFrame, settings: FinetuneSettings) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows to learn from and rows to watch, ``settings.held_out`` of all; a row's id and the seed decide.

    Raises:
        DataError: one of the two parts would be empty.
    """
    if not settings.held_out:
        return frame, frame.clear()
    # by rank, not by value: the share is met exactly, however few rows there are
    drawn = [hashlib.sha256(f"{settings.seed} {one}".encode()).hexdigest() for one in frame["id"]]
    watched = pl.Series(drawn).rank("ordinal") <= round(settings.held_out * len(frame))
    if watched.all() or not watched.any():
        raise DataError(
            f"{len(frame)} training rows are too few to hold out a share of {settings.held_out}",
            where="finetune: held_out",
            hint="use held_out = 0, or more rows",
        )
    return frame.filter(~watched), frame.filter(watched)


def watch(task: Task, network: Any, held_out: pl.DataFrame, settings: FinetuneSettings) -> Watch | None:
    """What the loop looks at: the mean loss, or the task's first figure; None where nothing is held out."""
    from feilun.training.watching import Watch, mean_loss

    if not len(held_out):
        return None
    numbers = task.examples(held_out, network, settings)
    if settings.watch == "loss":
        return Watch(lambda: mean_loss(network, numbers, task.losses, settings))

    first = figure(task, network, held_out)
    return Watch(lambda: figure(task, network, held_out).figure, first.higher_is_better, first.name)


def figure(task: Task, network: Any, held_out: pl.DataFrame) -> Metric:
    """The task's first figure, of the network as it is now."""
    from feilun.models import causal
    from feilun.models.decoding import Writing
    from feilun.models.network import Answering

    engine = Writing(network) if task.HEAD == causal.HEAD else Answering(network)
    return task.measure(held_out, task.answer(engine, held_out), network.labels)[0]
