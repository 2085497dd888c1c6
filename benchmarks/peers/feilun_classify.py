"""Classification as feilun trains it: what ``[finetune.NAME]`` does, timed from texts to weights.

Told as ``trainer``, with ``settings`` (of the section) in place of the rest. Answers the same, ``trained`` (the share
of the weights), and ``gflop`` and ``peak_gflops``: the products that the run needed, and how fast this machine
multiplies matrices of that shape in bf16.
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
from feilun.models.adapting.adapted import share
from feilun.tasks import classify
from feilun.training.loop import fit


def frame(rows: list[tuple[str, int]]) -> pl.DataFrame:
    """Rows as a dataset's columns."""
    return pl.DataFrame({"text": [t for t, _ in rows], "label": [str(y) for _, y in rows]})


def main(told: dict[str, Any]) -> dict[str, Any]:
    """Load, train, ask."""
    settings = FinetuneSettings(**told["settings"])
    begun = time.perf_counter()
    if settings.architecture == "base":
        network = networks.load(Path(told["model"]), settings.context)
    else:
        network = networks.grow(Path(told["model"]), settings, settings.context)
    network.adapt(settings.method, settings, settings.seed)
    loaded = time.perf_counter()
    network.relabel(sorted({str(y) for _, y in told["train"]}), settings.seed, classify.HEAD)
    examples = classify.examples(frame(told["train"]), network, settings)
    with tempfile.TemporaryDirectory() as scratch:
        training = time.perf_counter()
        steps = sum(1 for _ in fit(network, examples, classify.losses, settings, Path(scratch)))
        ended = time.perf_counter()
    trained = share(network)
    network.eval()
    answered = classify.answer(networks.Answering(network), frame(told["test"])).said
    right = sum(one["label"] == str(y) for one, (_, y) in zip(answered, told["test"], strict=True))
    return {
        "seconds": ended - loaded,
        "train_seconds": ended - training,
        "load_seconds": loaded - begun,
        "steps": steps,
        "trained": trained,
        "accuracy": right / len(told["test"]),
        "gflop": _products(network, sum(examples.lengths) * settings.epochs) / 1e9,
        "peak_gflops": _peak(network.encoder.config.hidden_size) / 1e9,
    }


def _products(network: networks.Network, tokens: int) -> float:
    """Operations of the matrix products: two a weight and token forward; backward as many for the states of what has
    something to learn below it, and as many for the weights that learn."""
    total, learns = 0.0, any(p.requires_grad for p in network.embeddings.parameters())
    for layer in network.layers:
        for name, parameter in layer.named_parameters():
            if parameter.ndim == 2 and "LayerNorm" not in name:
                total += 2.0 * parameter.numel() * tokens * (1 + learns + parameter.requires_grad)
        learns |= any(p.requires_grad for p in layer.parameters())
    return total


def _peak(width: int) -> float:
    """The best of 30 products (1024, width) x (width, 4 width) in bf16: operations in a second."""
    import torch  # after feilun, which says how its threads wait for each other

    states, weight = torch.randn(1024, width).bfloat16(), torch.randn(4 * width, width).bfloat16()
    best = float("inf")
    for _ in range(30):
        begun = time.perf_counter()
        torch.nn.functional.linear(states, weight)
        best = min(best, time.perf_counter() - begun)
    return 2 * states.numel() * 4 * width / best


if __name__ == "__main__":
    print(json.dumps(main(json.load(sys.stdin))))
