"""The step ``compress``: the tuned model becomes the one that is served."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from feilun.compress.settings import CompressSettings
from feilun.errors import DataError, StepError
from feilun.pipeline.kinds import Dataset, Model
from feilun.pipeline.steps import Workspace, step

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

    from feilun.models.inference import Engine
    from feilun.models.network import Answering
    from feilun.models.tokens import Rows
    from feilun.tasks.task import Answered, Task


@step("compress", version=4)
def compress(model: Model, examples: Dataset, settings: CompressSettings, work: Workspace) -> Model:
    """Export to OpenVINO, in fewer bits where ``settings`` say so, and compare with the model as it was trained.

    Args:
        model: a tuned model (safetensors) of any task.
        examples: training rows calibrate int8-static; held-out rows are asked of both models.

    Returns:
        model.xml, model.bin, tokenizer.json, config.json, and ``parity.json``: agreement, the task's figures, the worst
        row, sizes.

    Raises:
        StepError: the model is not a tuned one, more answers changed than ``settings.max_disagreement``, or it is to be
            kept apart from a base that its training changed.
        DataError: a split that is needed is empty, a column that the task needs is missing, or a row has a label that
            the model does not know.
    """
    from feilun import datasets, tasks
    from feilun.compress import apart, parity
    from feilun.models import card, openvino, shared
    from feilun.models import network as networks
    from feilun.store.artifacts import canonical

    if model.facts.get("format") != "safetensors" or not model.facts.get("task"):
        hint = "compress takes what finetune makes"
        raise StepError(f"model {model.short} cannot be compressed", hint=hint)
    if (task := tasks.of(model)).HEAD == "words":
        if settings.apart:
            raise StepError("models that write are not kept apart from their base", where="apart", hint="apart = false")
        return _compress_words(model, examples, settings, work)
    if settings.quantise == "int4":
        raise StepError("only models that write are served in 4 bits", where="quantise", hint='"int8" or "none"')
    trained = networks.Answering(networks.load(model.path))
    asked = _some(datasets.read(examples, "test"), settings.parity_rows, settings.seed, "test")
    datasets.require(asked, task.COLUMNS, f"dataset {examples.short}")

    work.record("exporting", 0, 4)
    base = apart.keep_apart(model, settings, work) if settings.apart else None
    if base is None:
        _export(trained, model, examples, settings, work)

    work.record("comparing", 2, 4)
    ready = shared.Bases().member(work.folder, base) if base else None
    before, rate_before = _ask(task, trained, asked)
    after, rate_after = _ask(task, ready or openvino.load(work.folder), asked)
    figures = task.measure(asked, before, trained.labels), task.measure(asked, after, trained.labels)
    found = parity.compare(asked["id"].to_list(), before, after, figures)
    found["bytes"] = {"before": _bytes(model.path), "after": _bytes(work.folder)}
    found["bytes"] |= {} if base is None else {"base": _bytes(base.path)}
    (work.folder / "parity.json").write_bytes(canonical(found))
    # rates are the run's, not the artefact's: they differ each time
    work.record(
        "comparing", 4, 4, disagreement=found["disagreement"], rows_s_before=rate_before, rows_s_after=rate_after
    )
    allowed = max(settings.max_disagreement, 1 / found["n"])  # of a few rows, one may change
    if found["disagreement"] > allowed:
        raise StepError(
            f"compression changed {found['disagreement']:.1%} of {found['n']} answers, more than the limit of "
            f"{settings.max_disagreement:.1%}",
            where=f"row {found['worst']['id']} moved most",
            hint='quantise = "int8" or "none", or a higher max_disagreement',
            code="parity",
        )
    return card.finish(
        work,
        [model, examples, *([] if base is None else [base])],
        settings,
        **({"format": "openvino"} if base is None else {"format": shared.FORMAT, "base": base.digest}),
        task=model.facts["task"],
        labels=list(trained.labels),
        context=trained.context,
        quantise=settings.quantise,
        disagreement=found["disagreement"],
    )


def _export(trained: Answering, model: Model, examples: Dataset, settings: CompressSettings, work: Workspace) -> None:
    from feilun import datasets, tasks
    from feilun.compress import quantise

    exported = quantise.export(trained.network)
    work.record("quantising", 1, 4)
    if settings.quantise == "int8":
        exported = quantise.to_int8(exported)
    elif settings.quantise == "int8-static":
        shown = _some(datasets.read(examples, "train"), settings.calibration_rows, settings.seed, "train")
        seen = _Seen(trained)
        tasks.of(model).answer(seen, shown)
        exported = quantise.to_static_int8(exported, seen.rows[: settings.calibration_rows])
    quantise.save(exported, work.folder)
    for name in ("tokenizer.json", "config.json"):
        shutil.copyfile(model.path / name, work.folder / name)


def _compress_words(model: Model, examples: Dataset, settings: CompressSettings, work: Workspace) -> Model:
    from feilun import datasets, tasks
    from feilun.compress import words
    from feilun.models import card, causal, paged
    from feilun.store.artifacts import canonical

    network = causal.load(model.path)
    asked = _some(datasets.read(examples, "test"), settings.parity_rows, settings.seed, "test")
    datasets.require(asked, tasks.of(model).COLUMNS, f"dataset {examples.short}")
    work.record("exporting", 0, 2)
    words.write(network, settings, work.folder)
    work.record("comparing", 1, 2)
    found = words.compare(network, paged.load(work.folder), asked)
    found["bytes"] = {"before": _bytes(model.path), "after": _bytes(work.folder)}
    (work.folder / "parity.json").write_bytes(canonical(found))
    change = found["perplexity"]["change"]
    work.record("comparing", 2, 2, disagreement=found["disagreement"], perplexity_change=change)
    words.check(found, settings)
    return card.finish(
        work,
        [model, examples],
        settings,
        format="paged",
        task=model.facts["task"],
        labels=[],
        context=network.context,
        quantise=settings.quantise,
        disagreement=found["disagreement"],
    )


def _some(frame: pl.DataFrame, most: int, seed: int, split: str) -> pl.DataFrame:
    if frame.is_empty():
        raise DataError(f"compress needs rows of the split '{split}'", where="compress: examples")
    return frame.sample(min(most, frame.height), seed=seed)


def _ask(task: Task, engine: Engine, frame: pl.DataFrame) -> tuple[Answered, float]:
    """Answers, and rows in a second."""
    started = time.perf_counter()
    answered = task.answer(engine, frame)
    return answered, frame.height / (time.perf_counter() - started)


class _Seen:
    """An engine that remembers which rows of ids a task had it read."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.head, self.labels, self.context = engine.head, engine.labels, engine.context
        self.tokenizer, self.decided = engine.tokenizer, engine.decided
        self.rows: list[Sequence[int]] = []

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return self._engine.encode(texts)

    def run(self, rows: Rows) -> NDArray[np.float32]:
        self.rows.extend(rows)
        return self._engine.run(rows)

    def outputs(self, rows: Rows) -> list[NDArray[np.float32]]:
        self.rows.extend(rows)
        return self._engine.outputs(rows)


def _bytes(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
