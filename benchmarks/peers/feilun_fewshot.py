"""Few-shot classification as feilun does it: ``method = "few-shot"`` of ``[finetune.NAME]``, from texts to a model.

Told as ``fewshot``, with ``settings`` (of the section) in place of the options. Answers the same.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import polars as pl

from feilun.finetune.settings import FinetuneSettings
from feilun.models import network as networks
from feilun.tasks import classify
from feilun.training import fewshot


def frame(rows: list[tuple[str, int]]) -> pl.DataFrame:
    """Rows as a dataset's columns."""
    return pl.DataFrame({"text": [t for t, _ in rows], "label": [str(y) for _, y in rows]})


def main(told: dict[str, Any]) -> dict[str, Any]:
    """Load, train, ask."""
    settings = FinetuneSettings(method="few-shot", seed=told.get("seed", 0), **told.get("settings", {}))
    network = networks.load(Path(told["model"]), settings.context)
    begun = time.perf_counter()
    network.relabel(sorted({str(y) for _, y in told["train"]}), settings.seed, classify.HEAD)
    examples = classify.examples(frame(told["train"]), network, settings)
    with tempfile.TemporaryDirectory() as scratch:
        steps = sum(1 for _ in fewshot.fit(network, examples, settings, Path(scratch), draws=settings.draws))
    seconds = time.perf_counter() - begun
    network.eval()
    answered = classify.answer(networks.Answering(network), frame(told["test"])).said if told["test"] else []
    right = sum(one["label"] == str(y) for one, (_, y) in zip(answered, told["test"], strict=True))
    return {"seconds": seconds, "steps": steps, "accuracy": right / max(1, len(answered))}


if __name__ == "__main__":
    print(json.dumps(main(json.load(sys.stdin))))
