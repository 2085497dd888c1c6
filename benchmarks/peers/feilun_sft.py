"""LoRA fine-tuning of a causal model by feilun, told and answering as ``sft.py`` is and does."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import polars as pl
import torch

from feilun.models import causal
from feilun.models.adapting.options import MethodOptions
from feilun.tasks import generate
from feilun.tasks.options import TaskOptions
from feilun.training.loop import fit
from feilun.training.settings import FitSettings


@torch.inference_mode()
def held_out(model: Any, rows: list[tuple[list[int], list[bool]]]) -> float:
    """Mean loss of the tokens that count, row by row in float32."""
    model.float()
    total, number = 0.0, 0
    for ids, counts in rows:
        logits = model(input_ids=torch.tensor([ids])).logits[0, :-1]
        lost = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")
        total += float(lost[torch.tensor(counts[1:])].sum())
        number += sum(counts[1:])
    return total / number


def main(told: dict[str, Any]) -> dict[str, Any]:
    """Load, train, measure."""
    network = causal.load(Path(told["model"]), told["context"])
    network.adapt("lora", MethodOptions(rank=told["rank"], alpha=told["alpha"]), told["seed"])
    frame = pl.DataFrame(
        {
            "id": [str(i) for i in range(len(told["train"]))],
            "messages": [
                [{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in told["train"]
            ],
        }
    )
    examples = generate.examples(frame, network, TaskOptions())
    settings = FitSettings(
        batch_tokens=told["context"] * told["packs"],
        learning_rate=told["learning_rate"],
        seed=told["seed"],
        checkpoint_steps=10**6,
    )
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        steps = sum(1 for _ in fit(network, examples, generate.losses, settings, Path(scratch)))
    seconds = time.perf_counter() - begun
    return {
        "seconds": seconds,
        "tokens": sum(examples.lengths),
        "steps": steps,
        "held_out": held_out(network.encoder, told["held_out"]),
    }


if __name__ == "__main__":
    print(json.dumps(main(json.load(sys.stdin))))
