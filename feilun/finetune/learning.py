"""A network for a base and a task, and what it learns; one training of ``finetune``, which may need two."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from feilun.errors import DataError, SettingError
from feilun.finetune import holding
from feilun.finetune.settings import FinetuneSettings
from feilun.pipeline.kinds import Model

if TYPE_CHECKING:
    from feilun.tasks.task import Task
    from feilun.training.loop import Progress


def begin(base: Model, task: Task, labels: Sequence[str], settings: FinetuneSettings) -> Any:
    """The base's network with the task's head, as ``settings.method`` trains it.

    Raises:
        SettingError: a context longer than the base can read, or a method or an architecture that does not fit.
        ArtifactError: the base's files are damaged or are not safetensors.
    """
    from feilun.models import causal
    from feilun.models import network as encoders

    networks: Any = causal if task.HEAD == causal.HEAD else encoders
    if settings.architecture == "base":
        network = networks.load(base.path, settings.context)
    elif networks is encoders:
        network = encoders.grow(base.path, settings, settings.context)
    else:
        raise SettingError(
            f"an {settings.architecture} reads texts and writes none", where="finetune: architecture", hint='"base"'
        )
    network.adapt(settings.method, settings, settings.seed)
    if settings.context > network.positions:
        raise SettingError(
            f"a context of {settings.context} tokens is more than the base's {network.positions}",
            where="finetune: context",
            hint=f"use context = {network.positions} or less",
        )
    known = network.labels if network.head.name == task.HEAD else ()  # labels of another kind of head mean nothing here
    network.relabel(sorted({*known, *labels}), settings.seed, task.HEAD)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise SettingError(
            f"method = '{settings.method}' trains nothing: the head of this task has no weights of its own",
            where="finetune: method",
            hint='try "lora"',
        )
    return network


def learn(
    network: Any, task: Task, numbers: Any, settings: FinetuneSettings, scratch: Path, *, held_out: pl.DataFrame
) -> Iterator[Progress]:
    """Train the network in place on examples, watch the rows held out meanwhile, then decide what the task decides.

    Raises:
        StepError: a loss or gradient that is not finite; an interrupted training resumes from ``scratch``.
    """
    from feilun.tasks.task import Decides
    from feilun.training import fewshot
    from feilun.training.loop import fit

    if settings.method == "few-shot":
        yield from fewshot.fit(network, numbers, settings, scratch, draws=settings.draws)
    else:
        watch = holding.watch(task, network, held_out, settings)
        yield from fit(network, numbers, task.losses, settings, scratch, watch=watch)
    if isinstance(task, Decides):
        network.decided = task.decide(network, held_out, settings)


def refuse_unseen(test: pl.DataFrame, task: Task, known: Sequence[str], dataset: str) -> None:
    """Refuse, before anything is learned, a dataset that its own test rows could not be measured with.

    Raises:
        DataError: a row of the split "test" has a label that no training row has and the base does not know.
    """
    from feilun.tasks import unseen

    found = unseen.find(test, task.COLUMNS, known)
    if found is not None:
        raise DataError(
            f"only test rows have the label '{found.label}' ({found.rows} such row{'s'[: found.rows != 1]}): "
            "no model could learn it",
            where=f"dataset {dataset}, split test, row {found.row}, column {found.column}",
            hint="add training rows with it, leave it out, or call it something else: prepare has names = { ... }",
        )


def told(last: Progress, settings: FinetuneSettings) -> dict[str, Any]:
    """What is to be known of a training after its last step: how long it was, and where the best weights were."""
    found: dict[str, Any] = {
        "epochs": settings.epochs,
        "epochs_run": round(settings.epochs * last.step / last.steps, 2),
        "steps": last.steps,
        "steps_run": last.step,
        "stopped_early": last.step < last.steps,
        "last_loss": last.loss,
    }
    return found if last.best is None else found | {"best_held_out": last.best, "best_step": last.best_step}


def examples(network: Any, task: Task, frame: pl.DataFrame, settings: FinetuneSettings) -> Any:
    """Rows as the task's numbers; a task may ask the network what it thinks by now."""
    from feilun.training import machine

    with machine.autocast(settings, machine.device(settings)):
        return task.examples(frame, network, settings)
