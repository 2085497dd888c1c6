"""The step ``finetune``: weights that know language learn a task."""

from __future__ import annotations

from typing import Any

from feilun.errors import SettingError
from feilun.finetune.settings import FinetuneSettings
from feilun.pipeline.kinds import Dataset, Model
from feilun.pipeline.steps import Workspace, step


@step("finetune", version=2)
def finetune(base: Model, examples: Dataset, settings: FinetuneSettings, work: Workspace) -> Model:
    """Train the weights that ``settings`` do not freeze; the base is read, never written.

    A base that was tuned before is a warm start: it keeps its head, and labels that are new to it are added.

    Args:
        base: an encoder or a causal language model in the Hugging Face layout, the latter in GGUF as well, or a tuned
            model in ours.
        examples: rows with text and label; those of the split "train" are learned from.

    Returns:
        Every weight, the head, and the tokenizer cut at ``settings.context``; what a method put in is in ``adapter/``.
        The fact ``trained`` is the share of the weights that was trained.

    Raises:
        DataError: fewer than two labels.
        SettingError: no such task, or a context longer than the base can read.
        StepError: a loss or gradient that is not finite; an interrupted training resumes from ``work.scratch``.
        ArtifactError: the base's files are damaged or are not safetensors.
    """
    from feilun import datasets, tasks
    from feilun.finetune import holding
    from feilun.models import card, causal
    from feilun.models import network as encoders
    from feilun.models.adapting.adapted import share
    from feilun.tasks.task import Decides
    from feilun.training import fewshot, machine
    from feilun.training.loop import fit

    frame = datasets.read(examples, "train")
    name = tasks.meant(settings.task, frame.columns)
    task = tasks.get(name)
    datasets.require(frame, task.COLUMNS, f"dataset {examples.short}")
    labels = task.labels(frame)
    networks: Any = causal if task.HEAD == causal.HEAD else encoders
    if settings.architecture == "base":
        network = networks.load(base.path, settings.context)
    else:
        network = networks.grow(base.path, settings, settings.context)
    network.adapt(settings.method, settings, settings.seed)
    if settings.context > network.positions:
        raise SettingError(
            f"a context of {settings.context} tokens is more than the base's {network.positions}",
            where="finetune: context",
            hint=f"use context = {network.positions} or less",
        )
    known = network.labels if network.head.name == task.HEAD else ()  # labels of another kind of head mean nothing here
    network.relabel(sorted({*known, *labels}), settings.seed, task.HEAD)
    learned, held_out = holding.split(frame, settings)
    with machine.autocast(settings, machine.device(settings)):  # a task may ask the network what it thinks by now
        numbers = task.examples(learned, network, settings)
    watch = holding.watch(task, network, held_out, settings)
    if settings.method == "few-shot":
        fitting = fewshot.fit(network, numbers, settings, work.scratch, draws=settings.draws)
    else:
        fitting = fit(network, numbers, task.losses, settings, work.scratch, watch=watch)
    for progress in fitting:
        work.record("training", progress.step, progress.steps, loss=progress.loss)
        if progress.held_out is not None:
            work.record("held out", progress.step, progress.steps, held_out=progress.held_out)
    trained = share(network)
    if isinstance(task, Decides):
        network.decided = task.decide(network, held_out, settings)
    networks.save(network, work.folder, name)
    return card.finish(
        work,
        [base, examples],
        settings,
        format="safetensors",
        task=name,
        labels=list(network.labels),
        context=settings.context,
        method=settings.method,
        trained=trained,
        rows=len(numbers),
    )
