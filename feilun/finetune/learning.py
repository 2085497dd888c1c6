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
    if settings.architecture != "base" and networks is causal:
        raise SettingError(
            f"an {settings.architecture} reads texts and writes none", where="finetune: architecture", hint='"base"'
        )
    _check_kind(base, settings.task, writes=networks is causal)
    if settings.architecture == "base":
        network = networks.load(base.path, settings.context)
    else:
        network = encoders.grow(base.path, settings, settings.context)
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


def _check_kind(base: Model, task: str, *, writes: bool) -> None:
    """An encoder cannot write, and a GGUF file is read only to write; other decoders read as encoders do."""
    import json

    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    from feilun.models import causal

    if not writes and (base.path / causal.GGUF).is_file():
        raise SettingError(
            f"the base is a GGUF model that writes: task = '{task}' needs an encoder",
            where="finetune: base",
            hint='base = "catalog:all-MiniLM-L6-v2"',
        )
    place = base.path / "config.json"
    if not writes or not place.is_file():
        return
    try:
        told = json.loads(place.read_bytes())
    except ValueError:
        return  # whoever loads it says what is wrong with it
    if not isinstance(told, dict) or told.get("is_decoder"):
        return
    own = told.get("feilun")
    tuned = isinstance(own, dict) and own.get("head", causal.HEAD) != causal.HEAD
    if tuned or told.get("model_type") in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        raise SettingError(
            f"the base is an encoder ({told.get('model_type')}): it reads texts and cannot write, "
            f"which task = '{task}' needs",
            where="finetune: base",
            hint='base = "catalog:SmolLM2-135M-Instruct"',
        )


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
