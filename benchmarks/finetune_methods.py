"""Every method of fine-tuning MiniLM on BANKING77 beside training all layers: accuracy, weights, time; and a BiLSTM."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks import material, peers
from benchmarks.bench import Row, Run, row

SETTINGS: dict[str, Any] = {"batch_tokens": 1024, "label_smoothing": 0.1, "context": 64}
EPOCHS = 6
TWICE = ("full", "lora")  # these two are compared: two seeds each, one of the others
METHODS: dict[str, dict[str, Any]] = {
    "full": {"learning_rate": 3e-4},
    "lora": {"method": "lora", "learning_rate": 3e-3},
    "dora": {"method": "lora", "dora": True, "learning_rate": 3e-3},
    "adapter": {"method": "adapter", "learning_rate": 3e-3},
    "bitfit": {"method": "bitfit", "learning_rate": 5e-3},
    "prefix": {"method": "prefix", "learning_rate": 1e-2},
    "prompt": {"method": "prompt", "learning_rate": 3e-2},
    "head": {"method": "head", "learning_rate": 3e-3},
    "bilstm": {"architecture": "bilstm", "learning_rate": 3e-3, "epochs": 12},
}


def measure(run: Run) -> Iterator[Row]:
    """Accuracy on the test rows, the share of the weights that was trained, seconds; LoRA against all of them."""
    folder = str(material.encoder(run.folder))
    train, test = material.banking77()
    if run.quick:
        train, test = train[::40], test[::20]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in METHODS}
    for seed in range(run.size(2, 1)):
        for name in sorted(METHODS if seed == 0 else TWICE, reverse=bool(seed % 2)):
            settings = {"epochs": EPOCHS, "seed": seed} | SETTINGS | METHODS[name]
            settings["epochs"] = run.size(settings["epochs"], 1)
            told = {"model": folder, "train": train, "test": test, "settings": settings}
            found[name].append(peers.run("feilun_classify", peers.OWN, told))
    pairs = list(zip(found["lora"], found["full"], strict=True))
    gaps = [100 * (lora["accuracy"] - full["accuracy"]) for lora, full in pairs]
    yield row("methods-lora-gap", "accuracy of LoRA less that of all layers", "points", gaps, target=-1.0)
    shares = [100 * one["trained"] for one in found["lora"]]
    yield row("methods-lora-share", "of the weights trained by LoRA", "%", shares, target=2.0, at_most=True)
    for name, runs in found.items():
        yield row(f"methods-{name}-accuracy", "on BANKING77's test rows", "%", [100 * one["accuracy"] for one in runs])
        yield row(f"methods-{name}-trained", "of the weights", "%", [100 * one["trained"] for one in runs])
        yield row(f"methods-{name}-seconds", "texts to weights", "s", [one["seconds"] for one in runs])
