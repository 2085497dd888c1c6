"""LoRA fine-tuning of a causal model by TRL's SFTTrainer, in bf16, rows packed.

Told: ``model`` (a folder), ``train`` (lists of [question, answer]), ``held_out`` (lists of [ids, which of them count]),
``context`` (512), ``packs`` (in a batch), ``rank``, ``alpha``, ``learning_rate``, ``seed``; ``checkpointing``: whether
activations are computed again in the backward pass, which is what TRL does as it comes.
Answers: ``seconds`` of the training alone, ``tokens`` trained on, ``steps``, ``held_out`` (mean loss of a token that
counts, in float32).
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import datasets
import peft
import torch
import transformers
import trl


@torch.inference_mode()
def held_out(model: Any, rows: list[tuple[list[int], list[bool]]]) -> float:
    """Mean loss of the tokens that count, row by row in float32."""
    model.float().eval()
    total, number = 0.0, 0
    for ids, counts in rows:
        logits = model(input_ids=torch.tensor([ids])).logits[0, :-1]
        lost = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")
        total += float(lost[torch.tensor(counts[1:])].sum())
        number += sum(counts[1:])
    return total / number


def main(told: dict[str, Any]) -> dict[str, Any]:
    """Load, train, measure."""
    rows = datasets.Dataset.from_list(
        [
            {"prompt": [{"role": "user", "content": q}], "completion": [{"role": "assistant", "content": a}]}
            for q, a in told["train"]
        ]
    )
    options = trl.SFTConfig(
        output_dir="out",
        max_length=told["context"],
        packing=True,
        completion_only_loss=True,
        per_device_train_batch_size=told["packs"],
        gradient_accumulation_steps=1,
        gradient_checkpointing=told["checkpointing"],
        num_train_epochs=1,
        learning_rate=told["learning_rate"],
        lr_scheduler_type="linear",
        warmup_steps=told.get("warmup", 0.1),
        weight_decay=0.01,
        bf16=True,
        use_cpu=True,
        seed=told["seed"],
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    low_rank = peft.LoraConfig(
        r=told["rank"], lora_alpha=told["alpha"], target_modules="all-linear", lora_dropout=0.0, task_type="CAUSAL_LM"
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(told["model"], dtype=torch.float32)
    trainer = trl.SFTTrainer(
        model=model,
        args=options,
        train_dataset=rows,
        peft_config=low_rank,
        processing_class=transformers.AutoTokenizer.from_pretrained(told["model"]),
    )
    tokens = sum(len(row["input_ids"]) for row in trainer.train_dataset)
    begun = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - begun
    return {
        "seconds": seconds,
        "tokens": tokens,
        "steps": trainer.state.global_step,
        "held_out": held_out(trainer.model, told["held_out"]),
    }


if __name__ == "__main__":
    transformers.utils.logging.set_verbosity_error()
    print(json.dumps(main(json.load(sys.stdin))))
