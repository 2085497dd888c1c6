"""Classification as others train it: the loop that tutorials teach, and the Hugging Face Trainer.

Told: ``kind`` (plain, trainer, trainer-best), ``model`` (a folder), ``train`` and ``test`` (lists of [text, number of
the label]), and optionally ``batch`` (16), ``learning_rate`` (5e-5), ``epochs`` (1), ``seed`` (0), ``threads``.
Answers: ``seconds`` (tokens and training; not loading the model), ``train_seconds``, ``accuracy`` on the test rows.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch
import transformers
from torch.utils.data import DataLoader, TensorDataset

CONTEXT = 128


def plain(model: Any, tokenizer: Any, told: dict[str, Any]) -> float:
    """Every text padded to 128 tokens, float32, dropout on, AdamW as it comes: what tutorials teach."""
    read = tokenizer(
        [text for text, _ in told["train"]],
        padding="max_length",
        truncation=True,
        max_length=CONTEXT,
        return_tensors="pt",
    )
    rows = TensorDataset(read["input_ids"], read["attention_mask"], torch.tensor([y for _, y in told["train"]]))
    loader = DataLoader(rows, batch_size=told.get("batch", 16), shuffle=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=told.get("learning_rate", 5e-5))
    epochs = told.get("epochs", 1)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, 0, len(loader) * epochs)
    model.train()
    begun = time.perf_counter()
    for _ in range(epochs):
        for ids, mask, labels in loader:
            loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    return time.perf_counter() - begun


def trainer(model: Any, tokenizer: Any, told: dict[str, Any]) -> float:
    """The Trainer with bf16 as it comes; ``trainer-best`` adds what its documentation offers for speed."""
    read = tokenizer([text for text, _ in told["train"]], truncation=True, max_length=CONTEXT)
    rows = [
        {"input_ids": ids, "attention_mask": mask, "labels": y}
        for ids, mask, (_, y) in zip(read["input_ids"], read["attention_mask"], told["train"], strict=True)
    ]
    best = {"train_sampling_strategy": "group_by_length"} if told["kind"] == "trainer-best" else {}
    options = transformers.TrainingArguments(
        output_dir="out",
        num_train_epochs=told.get("epochs", 1),
        per_device_train_batch_size=told.get("batch", 16),
        learning_rate=told.get("learning_rate", 5e-5),
        seed=told.get("seed", 0),
        bf16=True,
        use_cpu=True,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **best,
    )
    made = transformers.Trainer(model=model, args=options, train_dataset=rows, processing_class=tokenizer)
    begun = time.perf_counter()
    made.train()
    return time.perf_counter() - begun


@torch.inference_mode()
def accuracy(model: Any, tokenizer: Any, test: list[tuple[str, int]]) -> float:
    """The share of right answers, float32, texts sorted by length."""
    model.eval()
    right, ordered = 0, sorted(test, key=lambda row: len(row[0]))
    for start in range(0, len(ordered), 64):
        rows = ordered[start : start + 64]
        read = tokenizer([t for t, _ in rows], padding=True, truncation=True, max_length=CONTEXT, return_tensors="pt")
        right += int((model(**read).logits.argmax(1) == torch.tensor([y for _, y in rows])).sum())
    return right / len(test)


def main(told: dict[str, Any]) -> dict[str, Any]:
    """Load, train, ask."""
    if "threads" in told:
        torch.set_num_threads(told["threads"])
    transformers.set_seed(told.get("seed", 0))
    begun = time.perf_counter()
    options = {"attn_implementation": told["attention"]} if "attention" in told else {}
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        told["model"], num_labels=1 + max(y for _, y in told["train"]), dtype=torch.float32, **options
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(told["model"])
    loaded = time.perf_counter()
    seconds = (plain if told["kind"] == "plain" else trainer)(model, tokenizer, told)
    ended = time.perf_counter()
    share = accuracy(model, tokenizer, told["test"])
    return {
        "seconds": ended - loaded,
        "train_seconds": seconds,
        "load_seconds": loaded - begun,
        "accuracy": share,
        "attention": model.config._attn_implementation,
    }


if __name__ == "__main__":
    transformers.utils.logging.set_verbosity_error()
    print(json.dumps(main(json.load(sys.stdin))))
