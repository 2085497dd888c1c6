"""The file of a release, written by the step and read by the gateway: what answers, and what proves it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from feilun.errors import ArtifactError, StepError
from feilun.pipeline.kinds import Model
from feilun.serve import fingerprints
from feilun.store.artifacts import canonical

if TYPE_CHECKING:
    from feilun.models.desk import Work
    from feilun.models.shared import Bases

FILE = "release.json"
DIGITS = 6  # of a score
OUTPUTS = 64  # of a probe that are kept
WRITERS = ("generate", "prefer")  # tasks whose models write


def open_engine(model: Model, threads: int, work: Work | None = None, bases: Bases | None = None) -> Any:
    """What answers for a model: an ``Engine`` of ``feilun.models.inference``, or a ``Decoder`` of a causal model.

    Args:
        work: counts the processor time of a decoder's own threads, where somebody does.
        bases: where models that were kept apart from their base share it; each has its own by default.

    Raises:
        StepError: no engine here runs that format.
        ArtifactError: a file is missing, or is not what the engine can read.
    """
    if model.facts.get("task") in WRITERS and (opened := _open_decoder(model, threads, work)) is not None:
        return opened
    if model.facts.get("format") == "adapter":
        from feilun.models import shared

        return (bases or shared.Bases(threads=threads)).open(model)
    if model.facts.get("format") == "onnx":
        from feilun.models import tabular

        return tabular.load(model.path)
    if model.facts.get("format") != "openvino":
        raise StepError(
            f"the gateway cannot run a model of the format '{model.facts.get('format')}'",
            where=model.short,
            hint="compress it first: [compress.NAME], then serve that",
        )
    from feilun.models import openvino  # the engine takes a while to import, and most commands never run it

    return openvino.load(model.path, threads=threads)


def _open_decoder(model: Model, threads: int, work: Work | None) -> Any:
    counted = {} if work is None else {"work": work}
    if model.facts.get("format") == "paged":
        from feilun.models import paged

        return paged.load(model.path, threads=threads, **counted)
    if model.facts.get("format") == "remote":
        from feilun.models import remote

        return remote.load(model.path)
    if model.facts.get("format") == "safetensors":
        from feilun.models import reference  # slower by far, and the only one here that needs torch

        return reference.load(model.path, **counted)
    return None


def scores_of(labels: Sequence[str], row: Sequence[float]) -> dict[str, float]:
    """One row of scores by label, highest first, as it is answered."""
    named = [(label, round(float(score), DIGITS)) for label, score in zip(labels, row, strict=True)]
    return dict(sorted(named, key=lambda pair: -pair[1]))


def probes_of(engine: Any, texts: Sequence[str]) -> Sequence[str]:
    """What an engine is probed with: texts, or of a model of named columns records that it answers, as JSON."""
    return [canonical(record).decode() for record in engine.samples] if engine.head == "columns" else texts


def ask_once(task: str, engine: Any) -> None:
    """Ask a model as callers will: one that cannot be asked, for want of a separator say, is not released.

    Raises:
        FeilunError: what the task raises.
    """
    if task in WRITERS or engine.head == "columns":
        return
    import polars as pl

    from feilun import tasks

    asked = tasks.get(task)
    question = {"text": ["one"], "other": ["two"], "candidates": [["two"]]}
    asked.answer(engine, pl.DataFrame({name: question[name] for name in asked.READS}))


def probe(engine: Any, texts: Sequence[str]) -> list[dict[str, Any]]:
    """What the engine answers to some texts: the fingerprint of a model that was loaded right.

    ``scores`` by label where the model has one for each text, else the first ``OUTPUTS`` numbers of what it puts out.
    """
    if engine.head == "words":
        return fingerprints.probe(engine, texts)
    if engine.head == "columns":
        outputs = engine.outputs(engine.rows([json.loads(text) for text in texts]))
    else:
        outputs = engine.outputs(engine.encode(texts))
    if engine.head == "label":
        return [
            {"text": t, "scores": scores_of(engine.labels, list(row))} for t, row in zip(texts, outputs, strict=True)
        ]
    return [
        {"text": t, "outputs": [round(float(x), DIGITS) for x in np.ravel(row)[:OUTPUTS]]}
        for t, row in zip(texts, outputs, strict=True)
    ]


def write(folder: Path, name: str, model: Model, labels: Sequence[str], probes: list[dict[str, Any]]) -> None:
    """Write ``release.json``."""
    body = {"name": name, "model": model.digest, "task": model.facts["task"], "probes": probes}
    (folder / FILE).write_bytes(canonical(body | {"labels": sorted(labels)}))


def read(folder: Path) -> dict[str, Any]:
    """The content of ``release.json``.

    Raises:
        ArtifactError: it is missing or is not JSON.
    """
    try:
        body: dict[str, Any] = json.loads((folder / FILE).read_bytes())
    except (OSError, ValueError) as error:
        raise ArtifactError("the release cannot be read", where=str(folder / FILE)) from error
    return body


def check(engine: Any, said: dict[str, Any], tolerance: float) -> None:
    """Warm the engine up with the probes, and see that it is the model that the release was made from.

    Raises:
        ArtifactError: other labels, or a probe's score is further than ``tolerance`` from the release's.
    """
    if sorted(engine.labels) != said["labels"]:
        raise ArtifactError("the model has other labels than its release says")
    answered = probe(engine, [p["text"] for p in said["probes"]])
    worst = max(_distance(now, then, tolerance) for now, then in zip(answered, said["probes"], strict=True))
    if not worst <= tolerance:  # NaN must not pass
        raise ArtifactError(f"the model answers its probes otherwise than its release says (by {worst:.4f})")


def _distance(now: dict[str, Any], then: dict[str, Any], tolerance: float) -> float:
    if "tokens" in then:
        return fingerprints.distance(now, then, tolerance)
    if "scores" in then:
        return float(max(abs(now["scores"][label] - then["scores"][label]) for label in then["scores"]))
    if len(now["outputs"]) != len(then["outputs"]):
        return float("inf")
    size = max(1.0, *(abs(x) for x in then["outputs"]))  # not all heads put out probabilities
    return float(max(abs(a - b) for a, b in zip(now["outputs"], then["outputs"], strict=True)) / size)
