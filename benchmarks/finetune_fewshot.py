"""Few examples of each label, beside SetFit: accuracy on the whole test set, seconds, memory. Five choices of examples.

SetFit as it comes lists every pair: 146,300 of them for 5 questions to each of BANKING77's 77 intents, 585,200 for 10,
which would take hours. There it gets the number that its paper takes (``num_iterations = 20``), and beside that the
least that it offers (``sampling_strategy = "undersampling"``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from benchmarks import material, peers
from benchmarks.bench import Row, Run, row

SEEDS = 5
OURS: dict[str, Any] = {"draws": 8}
AS_IT_COMES: dict[str, dict[str, Any]] = {"setfit": {}}
FEWER_PAIRS = {"setfit": {"num_iterations": 20}, "setfit-least": {"sampling_strategy": "undersampling"}}


def sst2(run: Run) -> Iterator[Row]:
    """Eight sentences of each of two labels."""
    yield from _beside(run, "fewshot-sst2-8", material.sst2, 8, AS_IT_COMES)


def banking_5(run: Run) -> Iterator[Row]:
    """Five questions of each of 77 intents."""
    yield from _beside(run, "fewshot-banking77-5", material.banking77, 5, FEWER_PAIRS)


def banking_10(run: Run) -> Iterator[Row]:
    """Ten of each."""
    yield from _beside(run, "fewshot-banking77-10", material.banking77, 10, FEWER_PAIRS)


def memory(run: Run) -> Iterator[Row]:
    """The most memory that a process holds, by rows; SetFit, which lists the pairs, takes one step and fewer rows."""
    folder, (train, _) = str(material.encoder(run.folder)), material.banking77()
    most = run.size(40_000, 800)
    points: dict[str, list[tuple[float, float]]] = {"feilun": [], "setfit": []}
    for rows in (most // 16, most // 4, most):
        told = {"model": folder, "train": (train * 4)[:rows], "test": []}
        told["train"] += [row for row in train if row[1] not in {y for _, y in told["train"]}]
        ours = peers.run("feilun_fewshot", peers.OWN, told | {"settings": {**OURS, "draws": 1}})
        points["feilun"].append((rows, ours["peak_mb"]))
        if rows < most:
            theirs = peers.run("fewshot", "setfit", told | {"options": {"max_steps": 1}})
            points["setfit"].append((rows, theirs["peak_mb"]))
    for name, line in points.items():
        run.curve("MB by rows", name, line)
    low, high = points["feilun"][0][1], points["feilun"][-1][1]
    yield row("fewshot-memory", f"at {most:,} rows to {most // 16:,} rows", "x", [high / low], target=1.2, at_most=True)
    grown = [points["setfit"][1][1] / points["setfit"][0][1]]
    yield row("fewshot-memory-setfit", f"SetFit at {most // 4:,} rows to {most // 16:,} rows", "x", grown)


def _beside(
    run: Run,
    name: str,
    rows: Callable[[], tuple[material.Rows, material.Rows]],
    each: int,
    theirs: dict[str, dict[str, Any]],
) -> Iterator[Row]:
    folder, (train, test) = str(material.encoder(run.folder)), rows()
    found: dict[str, list[dict[str, Any]]] = {one: [] for one in ["feilun", *theirs]}
    for seed in range(run.size(SEEDS, 1)):
        told = {"model": folder, "train": material.few(train, each, seed), "test": test[: run.size(len(test), 32)]}
        for one in sorted(found, reverse=bool(seed % 2)):
            if one == "feilun":
                given = told | {"seed": seed, "settings": OURS}
                found[one].append(peers.run("feilun_fewshot", peers.OWN, given))
            else:
                given = told | {"seed": seed, "options": theirs[one] | ({"max_steps": 2} if run.quick else {})}
                found[one].append(peers.run("fewshot", "setfit", given, timeout=7200))
    for one, options in theirs.items():
        version = found[one][0]["versions"]["setfit"]
        pairs = list(zip(found["feilun"], found[one], strict=True))
        shares = [a["seconds"] / b["seconds"] for a, b in pairs]
        what = f"of the time of SetFit {version} {options or ''}".strip()
        yield row(f"{name}-{one}-time", what, "x", shares, target=1 / 3, at_most=True)
        mean = sum(100 * (a["accuracy"] - b["accuracy"]) for a, b in pairs) / len(pairs)
        yield row(f"{name}-{one}-gap", "mean accuracy less SetFit's", "points", [mean], target=0.0)
    for one, runs in found.items():
        yield row(f"{name}-{one}-accuracy", f"{len(runs)} choices of examples", "", [r["accuracy"] for r in runs])
        yield row(f"{name}-{one}-seconds", "texts to model", "s", [r["seconds"] for r in runs])
        yield row(f"{name}-{one}-memory", "most memory of the process", "MB", [r["peak_mb"] for r in runs])
