"""Training rows that are not learned from, but watched while the others are."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import TYPE_CHECKING, Any

import polars as pl

from feilun.datasets.positions import together
from feilun.errors import DataError
from feilun.finetune.settings import FinetuneSettings

if TYPE_CHECKING:
    from feilun.tasks.metrics import Metric
    from feilun.tasks.task import Task
    from feilun.training.watching import Watch


def split(frame: pl.DataFrame, settings: FinetuneSettings) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows to learn from and rows to watch, ``settings.held_out`` of all.

    Rows that belong together (see ``together``) are on one side: what is watched must be as new as the test rows are.
    The share is met as nearly as that allows. Which ones it is depends on what they share and the seed.

    Raises:
        DataError: one of the two parts would be empty.
    """
    if not settings.held_out:
        return frame, frame.clear()
    groups = together(frame)
    chosen = _drawn(Counter(groups), round(settings.held_out * len(frame)), settings.seed)
    watched = pl.Series([group in chosen for group in groups], dtype=pl.Boolean)
    if watched.all() or not watched.any():
        raise DataError(
            f"{len(frame)} training rows ({len(set(groups))} that share nothing) are too few to hold out a share of "
            f"{settings.held_out}",
            where="finetune: held_out",
            hint="use held_out = 0, or more rows",
        )
    return frame.filter(~watched), frame.filter(watched)


def _drawn(sizes: Counter[str], wanted: int, seed: int) -> set[str]:
    """Groups drawn until they have so many rows; one is passed over that would miss the number by more than without."""
    order = sorted(sizes, key=lambda group: hashlib.sha256(f"{seed} {group}".encode()).digest())
    chosen: set[str] = set()
    left = wanted
    for group in order:
        if sizes[group] <= 2 * left:
            chosen.add(group)
            left -= sizes[group]
    if wanted and not chosen:  # every group is far too large: the least is nearest
        chosen.add(min(order, key=sizes.__getitem__))
    return chosen


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
