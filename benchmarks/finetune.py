"""Fine-tuning beside its peers: make bench NAME=finetune ARGS="speed quality"; without names, everything (hours)."""

from __future__ import annotations

from benchmarks import (
    finetune_fewshot,
    finetune_methods,
    finetune_quality,
    finetune_sft,
    finetune_spans,
    finetune_speed,
    finetune_tasks,
)
from benchmarks.bench import Bench

finetune = Bench("finetune")
for name, measured in {
    "speed": finetune_speed.measure,
    "sft": finetune_sft.sft,
    "fewshot-sst2": finetune_fewshot.sst2,
    "fewshot-banking77-5": finetune_fewshot.banking_5,
    "fewshot-banking77-10": finetune_fewshot.banking_10,
    "fewshot-memory": finetune_fewshot.memory,
    "quality": finetune_quality.measure,
    "methods": finetune_methods.measure,
    "tag": finetune_spans.tag,
    "extract": finetune_spans.extract,
    "regress": finetune_tasks.regress,
    "multilabel": finetune_tasks.multilabel,
    "pair": finetune_tasks.pair,
    "embed": finetune_tasks.embed,
    "rank": finetune_tasks.rank,
}.items():
    finetune.figure(name)(measured)

if __name__ == "__main__":
    finetune.main()
