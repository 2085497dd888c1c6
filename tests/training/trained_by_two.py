"""What each process of torchrun does in test_crew.py; the first one writes down what came of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from torch import distributed

from feilun.tasks import classify
from feilun.training.loop import fit
from feilun.training.settings import FitSettings
from feilun.training.watching import Watch
from tests.training.test_loop import Task

FP32 = FitSettings(
    epochs=2,
    learning_rate=5e-3,
    batch_tokens=256,
    checkpoint_steps=5,
    seed=7,
    precision="fp32",
    freeze_embeddings=False,
)
CASES: dict[str, FitSettings] = {
    "ddp": FP32,
    "fsdp": FP32.model_copy(update={"shard": True}),
    "ddp, whole batches": FP32.model_copy(update={"accumulation": 2}),
    "fsdp, whole batches": FP32.model_copy(update={"accumulation": 2, "shard": True}),
    "ddp, rows of three batches": FP32.model_copy(update={"accumulation": 3, "batch_rows": 1, "epochs": 1}),
    "fsdp, bf16": FP32.model_copy(update={"shard": True, "precision": "bf16"}),
    "fsdp, averaged": FP32.model_copy(update={"ema": 0.9, "shard": True}),
}


def train(base: Path, scratch: Path, settings: FitSettings, stop: int | None = None) -> dict[str, object]:
    """The curve, what the watch saw, and the sha256 of every weight at the end."""
    scratch.mkdir(exist_ok=True)
    task = Task(base)
    watch = Watch(lambda: float(task.network.head.weight.detach().double().norm()))
    losses, seen = [], []
    for progress in fit(task.network, task.examples, classify.losses, settings, scratch, watch=watch):
        losses.append(progress.loss)
        seen += [] if progress.held_out is None else [progress.held_out]
        if progress.step == stop:
            break
    weights = {name: p.double().norm().item() for name, p in task.network.named_parameters()}
    return {"losses": losses, "seen": seen, "weights": weights, "sha256": task.sha256()}


def main() -> None:
    base, folder = Path(sys.argv[1]), Path(sys.argv[2])
    found = {name: train(base, folder / name, settings) for name, settings in CASES.items()}
    for name in ("ddp", "fsdp"):
        train(base, folder / f"{name} stopped", CASES[name], stop=7)
        found[f"{name}, resumed"] = train(base, folder / f"{name} stopped", CASES[name])
    if distributed.get_rank() == 0:
        (folder / "found.json").write_text(json.dumps(found))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
