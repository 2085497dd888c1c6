"""The step ``finetune``: weights that know language learn a task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from feilun.errors import SettingError
from feilun.finetune.settings import FinetuneSettings
from feilun.pipeline.kinds import Dataset, Model
from feilun.pipeline.steps import Workspace, step

if TYPE_CHECKING:
    from feilun.training.loop import Progress


@step("finetune", version=3, together=True)
def finetune(
    base: Model, examples: Dataset, settings: FinetuneSettings, work: Workspace, paraphraser: Model | None = None
) -> Model:
    """Train the weights that ``settings`` do not freeze; the base is read, never written.

    A base that was tuned before is a warm start: it keeps its head, and labels that are new to it are added.

    Args:
        base: an encoder or a causal language model in the Hugging Face layout, the latter in GGUF as well, or a tuned
            model in ours.
        examples: rows with what the task learns; those of the split "train" are learned from.
        paraphraser: a causal language model, for ``augment = ["paraphrase"]``.

    Returns:
        Every weight, the head, and the tokenizer cut at ``settings.context``; what a method put in is in ``adapter/``.
        The fact ``trained`` is the share of the weights that was trained; ``augmentation`` what altered texts changed.
        How long it was trained and where it was best are in the run's metrics (``learning.told``).

    Raises:
        DataError: fewer than two labels, or one that only held-out rows have: no model could answer it.
        SettingError: no such task, or a context longer than the base can read.
        StepError: a loss or gradient that is not finite; an interrupted training resumes from ``work.scratch``.
        ArtifactError: the base's files are damaged or are not safetensors.
    """
    import polars as pl

    from feilun import datasets, tasks
    from feilun.finetune import effect, holding, learning
    from feilun.models import card, causal
    from feilun.models import network as encoders
    from feilun.models.adapting.adapted import share

    frame = datasets.read(examples, "train")
    name = tasks.meant(settings.task, frame.columns)
    task = tasks.get(name)
    datasets.require(frame, task.COLUMNS, f"dataset {examples.short}")
    labels = task.labels(frame)
    if "paraphrase" in settings.augment and paraphraser is None:
        raise SettingError(
            "augment = paraphrase needs a model that writes",
            where="finetune: paraphraser",
            hint='paraphraser = "catalog:SmolLM2-135M-Instruct"',
        )
    network = learning.begin(base, task, labels, settings)
    learning.refuse_unseen(datasets.read(examples, "test"), task, network.labels, examples.short)
    learned, held_out = holding.split(frame, settings)
    copies = effect.altered(base, learned, settings, paraphraser, settings.context)
    numbers = learning.examples(network, task, pl.concat([learned, copies]), settings)
    fitting = learning.learn(network, task, numbers, settings, work.scratch, held_out=held_out)
    last: Progress | None = None
    for progress in fitting:
        last = progress
        work.record("training", progress.step, progress.steps, loss=progress.loss)
        if progress.held_out is not None and progress.watch is not None:
            work.metrics |= {"watched": progress.watch.name, "higher_is_better": progress.watch.higher_is_better}
            best = {} if progress.best is None else {"best_held_out": progress.best}
            work.record("held out", progress.step, progress.steps, held_out=progress.held_out, **best)
    if last is not None:
        work.metrics |= learning.told(last, settings)
    trained = share(network)
    augmented: dict[str, Any] = {"altered": copies.height} if settings.augment else {}
    if settings.augment and settings.augment_compare:
        plain = learning.begin(base, task, labels, settings)
        times = 1 + round(copies.height / learned.height)
        second = effect.without(
            plain, task, (learned, held_out), settings, scratch=work.scratch / "without", times=times
        )
        for progress in second:
            work.record("training without altered texts", progress.step, progress.steps, loss=progress.loss)
        augmented["augmentation"] = effect.compare(network, plain, task, held_out, seed=settings.seed)
    networks: Any = causal if task.HEAD == causal.HEAD else encoders
    networks.save(network, work.folder, name)
    return card.finish(
        work,
        [base, examples, *([paraphraser] if paraphraser else [])],
        settings,
        format="safetensors",
        task=name,
        labels=list(network.labels),
        context=settings.context,
        method=settings.method,
        trained=trained,
        rows=len(numbers),
        **augmented,
    )
