"""The step ``compress``: the tuned model becomes the one that is served."""

from __future__ import annotations

import shutil
import time
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


@step("compress", version=2)
def compress(model: Model, examples: Dataset, settings: CompressSettings, work: Workspace) -> Model:
    """Export to OpenVINO, in 8 bits where ``settings`` say so, and compare with the model as it was trained.

    Args:
        model: a tuned model (safetensors).
        examples: training rows calibrate int8-static; held-out rows are asked of both models.

    Returns:
        model.xml, model.bin, tokenizer.json, config.json, and ``parity.json``: agreement, accuracy, worst row, sizes.

    Raises:
        StepError: the model is not a tuned one, or more answers changed than ``settings.max_disagreement``.
        DataError: a split that is needed is empty, or a row has a label that the model does not know.
    """
    from feilun import datasets
    from feilun.compress import parity, quantise
    from feilun.models import network as networks
    from feilun.models import openvino
    from feilun.store.artifacts import canonical
    from feilun.tasks import metrics

    if model.facts.get("format") != "safetensors":
        raise StepError(f"model {model.short} cannot be compressed", hint="compress takes what finetune makes")
    trained = networks.Answering(networks.load(model.path))
    asked = _some(datasets.read(examples, "test"), settings.parity_rows, settings.seed, "test")
    truth = metrics.numbers(asked["label"].to_list(), trained.labels)

    work.record("exporting", 0, 4)
    exported = quantise.export(trained.network)
    work.record("quantising", 1, 4)
    if settings.quantise == "int8":
        exported = quantise.to_int8(exported)
    elif settings.quantise == "int8-static":
        shown = _some(datasets.read(examples, "train"), settings.calibration_rows, settings.seed, "train")
        exported = quantise.to_static_int8(exported, trained.encode(shown["text"].to_list()))
    quantise.save(exported, work.folder)
    for name in ("tokenizer.json", "config.json"):
        shutil.copyfile(model.path / name, work.folder / name)

    work.record("comparing", 2, 4)
    rows = trained.encode(asked["text"].to_list())
    before, rate_before = _ask(trained, rows)
    after, rate_after = _ask(openvino.load(work.folder), rows)
    found = parity.compare(asked["id"].to_list(), truth, before, after, trained.labels)
    found["bytes"] = {"before": _bytes(model.path), "after": _bytes(work.folder)}
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
    return work.finish(
        Model,
        [model, examples],
        format="openvino",
        task=model.facts["task"],
        labels=list(trained.labels),
        context=trained.context,
        quantise=settings.quantise,
        disagreement=found["disagreement"],
    )


def _some(frame: pl.DataFrame, most: int, seed: int, split: str) -> pl.DataFrame:
    if frame.is_empty():
        raise DataError(f"compress needs rows of the split '{split}'", where="compress: examples")
    return frame.sample(min(most, frame.height), seed=seed)


def _ask(engine: Engine, rows: list[list[int]]) -> tuple[NDArray[np.float32], float]:
    """Scores (N, C), and rows in a second."""
    started = time.perf_counter()
    scores = engine.run(rows)
    return scores, len(rows) / (time.perf_counter() - started)


def _bytes(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.iterdir() if f.is_file())
