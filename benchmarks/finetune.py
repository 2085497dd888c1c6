"""Fine-tuning beside its peers: make bench NAME=finetune ARGS="speed quality"; without names, everything."""

from __future__ import annotations

from benchmarks import (
    finetune_fewshot,
    finetune_methods,
    finetune_quality,
    finetune_sft,
    finetune_spans,
    finetune_speed,
)
from benchmarks.bench import Bench

finetune = Bench("finetune")
finetune.figure("speed")(finetune_speed.measure)
finetune.figure("quality")(finetune_quality.measure)
finetune.figure("methods")(finetune_methods.measure)
finetune.figure("fewshot-sst2")(finetune_fewshot.sst2)
finetune.figure("fewshot-banking77-5")(finetune_fewshot.banking_5)
finetune.figure("fewshot-banking77-10")(finetune_fewshot.banking_10)
finetune.figure("fewshot-memory")(finetune_fewshot.memory)
finetune.figure("sft")(finetune_sft.sft)
finetune.figure("tag")(finetune_spans.tag)
finetune.figure("extract")(finetune_spans.extract)

if __name__ == "__main__":
    finetune.main()
