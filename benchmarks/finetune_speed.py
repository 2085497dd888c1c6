"""How fast one epoch of fine-tuning is beside what tutorials teach and the Hugging Face Trainer, at equal accuracy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks import material, peers
from benchmarks.bench import Row, Run, row

ROWS, BATCH = 2_000, 16
# One epoch in batches of 16, as the peers. The first is the recipe ``full-small``, the second trains every weight.
OURS: dict[str, dict[str, Any]] = {
    "recipe": {"learning_rate": 2e-4, "batch_rows": BATCH, "freeze_embeddings": True, "freeze_layers": 2},
    "every-weight": {"learning_rate": 2e-4, "batch_rows": BATCH, "freeze_embeddings": False},
}
THEIRS = {"plain": "trainer", "trainer": "trainer", "trainer-best": "trainer"}


def measure(run: Run) -> Iterator[Row]:
    """Seconds from texts to weights, three seeds, all of them in turn; ratios within one round."""
    folder = str(material.encoder(run.folder))
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in [*OURS, *THEIRS]}
    for seed in range(run.size(3, 1)):
        train, test = material.reviews(run.size(ROWS, 96), held_out=run.size(1_000, 64), seed=seed)
        told = {"model": folder, "train": train, "test": test, "seed": seed, "batch": BATCH}
        for name in sorted(found, reverse=bool(seed % 2)):
            if name in OURS:
                given = told | {"settings": OURS[name] | {"seed": seed}}
                found[name].append(peers.run("feilun_classify", peers.OWN, given))
            else:
                found[name].append(peers.run("trainer", THEIRS[name], told | {"kind": name}))
    versions = found["trainer"][0]["versions"]
    for ours in OURS:
        for theirs, target in (("plain", 10.0), ("trainer", 2.5), ("trainer-best", None)):
            ratios = _ratios(found[theirs], found[ours])
            against = f"{theirs} (transformers {versions['transformers']})"
            yield row(f"speed-{ours}-{theirs}", f"times as fast as {against}", "x", ratios, target=target)
        gaps = [100 * (a["accuracy"] - b["accuracy"]) for a, b in zip(found[ours], found["plain"], strict=True)]
        yield row(f"speed-{ours}-accuracy", "held-out accuracy less the padded loop's", "points", gaps, target=-1.0)
        rates = [one["gflop"] / one["train_seconds"] for one in found[ours]]
        yield row(f"speed-{ours}-rate", "products of the run", "GFLOP/s", rates)
        shares = [rate / one["peak_gflops"] for rate, one in zip(rates, found[ours], strict=True)]
        yield row(f"speed-{ours}-share", "of the bf16 peak measured in the same process", "", shares)
    for name, runs in found.items():
        yield row(f"speed-{name}-seconds", "one epoch, texts to weights", "s", [one["seconds"] for one in runs])
        yield row(f"speed-{name}-held-out", "accuracy", "", [one["accuracy"] for one in runs])
        yield row(f"speed-{name}-memory", "most memory of the process", "MB", [one["peak_mb"] for one in runs])


def _ratios(theirs: list[Mapping[str, Any]], ours: list[Mapping[str, Any]]) -> list[float]:
    return [a["seconds"] / b["seconds"] for a, b in zip(theirs, ours, strict=True)]
