"""Answers learned by a causal model (SmolLM2-135M, LoRA, rows packed to 512 tokens), beside TRL's SFTTrainer in bf16.

Both train on the same conversations: what customers write (BANKING77), asked for by the name of what they want. Only
the answers' tokens count in the loss. Loss is measured the same way on the same held-out tokens, in float32.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import material, peers
from benchmarks.bench import Row, Run, alternate, row

CONTEXT, PACKS = 512, 2
TOLD = {"context": CONTEXT, "packs": PACKS, "rank": 16, "alpha": 32, "learning_rate": 1e-3, "seed": 0}


def sft(run: Run) -> Iterator[Row]:
    """Tokens per second, and the loss on held-out answers; TRL with the faster of its two ways (no checkpointing)."""
    told = _told(run)
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "theirs": []}

    def measure(side: str, script: str, environment: str, **more: Any) -> float:
        found[side].append(peers.run(script, environment, {**told, **more}))
        return float(found[side][-1]["tokens"] / found[side][-1]["seconds"])

    ours, theirs = alternate(
        lambda: measure("ours", "feilun_sft", peers.OWN),
        lambda: measure("theirs", "sft", "trainer", checkpointing=False),
        run.size(3, 1),
    )
    version = found["theirs"][0]["versions"]["trl"]
    yield row("sft-tokens", "LoRA, SmolLM2-135M, packed", "tokens/s", ours, peer=(f"TRL {version}", theirs))
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    yield row("sft-ratio", "tokens per second, ours to TRL's", "x", ratios, target=1.5)
    losses = [[one["held_out"] for one in found[side]] for side in ("ours", "theirs")]
    yield row("sft-loss", "held-out loss of a token", "nats", losses[0], peer=(f"TRL {version}", losses[1]))
    yield row(
        "sft-loss-gap",
        "held-out loss, ours less TRL's",
        "nats",
        [a - b for a, b in zip(*losses, strict=True)],
        target=0.02,
        at_most=True,
    )
    memory = [[one["peak_mb"] for one in found[side]] for side in ("ours", "theirs")]
    yield row("sft-memory", "most memory held", "MB", memory[0], peer=(f"TRL {version}", memory[1]))
    default = peers.run("sft", "trainer", {**told, "checkpointing": True})
    speed = default["tokens"] / default["seconds"]
    yield row("sft-default", "TRL as it comes, with checkpointing", "tokens/s", [speed])


def _told(run: Run) -> dict[str, Any]:
    """What both are told: a folder that both read, conversations, held-out ids."""
    from feilun.models import causal
    from feilun.tasks import generate

    folder: Path = run.folder / "causal"
    network = causal.load(material.encoder(run.folder, "catalog:SmolLM2-135M-Instruct"), CONTEXT)
    if not folder.exists():
        folder.mkdir()
        causal.save(network, folder)
    train, test = (
        [(f"Write what a customer says about: {y.replace('_', ' ')}", t.strip()) for t, y in _rows(part)]
        for part in ("train", "test")
    )
    number, apart = run.size(400, 64), run.size(200, 10)
    held_out = generate.teach(
        network,
        [
            [{"role": "user", "content": q}, {"role": "assistant", "content": a}]
            for q, a in test[:: len(test) // apart][:apart]
        ],
        last=True,
    )
    return {**TOLD, "model": str(folder), "train": train[:: len(train) // number][:number], "held_out": held_out}


def _rows(part: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(material.read(f"catalog:banking77/{part}"))))[1:]
