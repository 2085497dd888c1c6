"""What other trainers call our settings, so that who knows theirs is told ours."""

from __future__ import annotations

from collections.abc import Collection

from feilun.errors import did_you_mean

OURS = {
    "adapter_dim": "bottleneck",
    "base_model": "base",
    "batch_size": "batch_rows",
    "bf16": "precision",
    "data": "examples",
    "dataset": "examples",
    "early_stopping_patience": "patience",
    "eval_split": "held_out",
    "eval_steps": "watch_steps",
    "fp16": "precision",
    "fsdp": "shard",
    "gradient_accumulation": "accumulation",
    "gradient_accumulation_steps": "accumulation",
    "gradient_clipping": "clip",
    "init_lora_weights": "init",
    "label_column": "label",
    "label_smoothing_factor": "label_smoothing",
    "lora_alpha": "alpha",
    "lora_r": "rank",
    "lora_rank": "rank",
    "loss_type": "preference",
    "lr": "learning_rate",
    "lr_scheduler": "schedule",
    "lr_scheduler_type": "schedule",
    "max_grad_norm": "clip",
    "max_length": "context",
    "max_new_tokens": "answer_tokens",
    "max_seq_length": "context",
    "model": "base",
    "model_name": "base",
    "model_name_or_path": "base",
    "n_epochs": "epochs",
    "num_epochs": "epochs",
    "num_train_epochs": "epochs",
    "num_virtual_tokens": "virtual_tokens",
    "per_device_train_batch_size": "batch_rows",
    "quantization": "quantise",
    "quantize": "quantise",
    "r": "rank",
    "random_state": "seed",
    "save_steps": "checkpoint_steps",
    "scheduler": "schedule",
    "target_modules": "targets",
    "test_size": "split",
    "text_column": "text",
    "train_file": "examples",
    "use_dora": "dora",
    "use_rslora": "rslora",
    "validation_split": "held_out",
    "warmup_ratio": "warmup",
    "warmup_steps": "warmup",
    "wd": "weight_decay",
}


def hint(word: str, known: Collection[str]) -> str | None:
    """A hint for a name that is none of the ``known`` ones: what is meant, or what is spelled nearly so.

    >>> hint("lr", ["learning_rate", "clip"]), hint("epoks", ["epochs"])
    ("did you mean 'learning_rate'?", "did you mean 'epochs'?")
    """
    ours = OURS.get(word.lower().replace("-", "_"))
    return f"did you mean '{ours}'?" if ours in known else did_you_mean(word, known)
