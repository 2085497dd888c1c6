"""How good MiniLM gets on three public sets, tuned on all of their rows and asked for their own test rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks import material, peers
from benchmarks.bench import Row, Run, row

# One setting for all three but for how often the rows are seen; the recipe ``intents`` has them.
SETTINGS = {"learning_rate": 3e-4, "batch_tokens": 1024, "label_smoothing": 0.1, "context": 64}
SETS: dict[str, tuple[Any, int, float]] = {
    # rows, epochs, least accuracy in percent
    "banking77": (material.banking77, 6, 92.5),
    "trec": (material.trec, 4, 96.0),
    "sst2": (material.sst2, 2, 88.0),
}
Z = 1.959964  # of a 95 % interval


def measure(run: Run) -> Iterator[Row]:
    """Accuracy on the test rows with Wilson's interval, and the seconds that it took."""
    folder = str(material.encoder(run.folder))
    for name, (read, epochs, target) in SETS.items():
        train, test = read()
        if run.quick:
            train, test = train[::40], test[::20]
        found = []
        for seed in range(run.size(2, 1)):
            settings = SETTINGS | {"epochs": run.size(epochs, 1), "seed": seed}
            told = {"model": folder, "train": train, "test": test, "settings": settings}
            found.append(peers.run("feilun_classify", peers.OWN, told))
        shares = [one["accuracy"] for one in found]
        yield row(f"quality-{name}", "accuracy", "%", [100 * s for s in shares], target=target)
        low, high = wilson(sum(shares) / len(shares), len(test))
        yield row(f"quality-{name}-low", f"lower end of its 95 % interval, {len(test)} rows", "%", [100 * low])
        yield row(f"quality-{name}-high", "upper end", "%", [100 * high])
        yield row(f"quality-{name}-seconds", "texts to weights", "s", [one["seconds"] for one in found])


def wilson(share: float, rows: int) -> tuple[float, float]:
    """The interval of a share of ``rows`` (Wilson 1927).

    >>> [round(end, 3) for end in wilson(0.9, 100)]
    [0.826, 0.945]
    """
    middle = (share + Z**2 / (2 * rows)) / (1 + Z**2 / rows)
    reach = Z / (1 + Z**2 / rows) * (share * (1 - share) / rows + Z**2 / (4 * rows**2)) ** 0.5
    return middle - reach, middle + reach
