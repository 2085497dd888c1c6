"""What altered texts changed: the same training without them, on the same held-out rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from feilun.finetune import augmenting, holding, learning
from feilun.finetune.settings import FinetuneSettings
from feilun.pipeline.kinds import Model

if TYPE_CHECKING:
    from feilun.tasks.task import Task
    from feilun.training.loop import Progress

RESAMPLES = 1000


def altered(
    base: Model, learned: pl.DataFrame, settings: FinetuneSettings, paraphraser: Model | None, context: int
) -> pl.DataFrame:
    """The altered copies that ``settings`` ask for, none where they ask for none."""
    if not settings.augment:
        return learned.clear()
    from feilun.finetune import paraphrasing
    from feilun.models import network as encoders

    texts = learned["text"].to_list()
    neighbours: augmenting.Neighbours = {}
    if "synonyms" in settings.augment:
        neighbours = augmenting.nearest(texts, augmenting.embedded(encoders.load(base.path, context)))
    said = paraphrasing.load(paraphraser.path, settings.seed) if paraphraser is not None else None
    return augmenting.more(learned, settings, settings.seed, neighbours, said)


def compare(network: Any, plain: Any, task: Task, held_out: pl.DataFrame, *, seed: int) -> dict[str, Any]:
    """The task's first figure of the network that saw altered texts and of one that did not, and their difference.

    Returns:
        figure (its name), with, without, difference and its 95 % interval by a paired bootstrap, and how many rows.
    """
    from feilun.tasks import bootstrap

    both = [holding.figure(task, one, held_out) for one in (network, plain)]
    drawn = bootstrap.draws(both, RESAMPLES, seed)
    ends = bootstrap.interval(drawn[0] - drawn[1])
    return {
        "figure": both[0].name,
        "with": round(both[0].figure, 4),
        "without": round(both[1].figure, 4),
        "difference": round(both[0].figure - both[1].figure, 4),
        "interval": [round(end, 4) for end in ends] if ends else None,
        "rows": held_out.height,
    }


def without(
    plain: Any,
    task: Task,
    rows: tuple[pl.DataFrame, pl.DataFrame],
    settings: FinetuneSettings,
    *,
    scratch: Path,
    times: int,
) -> Iterator[Progress]:
    """Train ``plain`` on ``rows[0]`` alone, each as often as it was learned from with its copies: as many steps."""
    longer = settings.model_copy(update={"epochs": settings.epochs * times})
    scratch.mkdir(exist_ok=True)
    numbers = learning.examples(plain, task, rows[0], longer)
    yield from learning.learn(plain, task, numbers, longer, scratch, held_out=rows[1])
