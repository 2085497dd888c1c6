"""Fine-tuning beside its peers: make bench NAME=finetune ARGS="speed quality"; without names, everything."""

from __future__ import annotations

from benchmarks import finetune_methods, finetune_quality, finetune_speed
from benchmarks.bench import Bench

finetune = Bench("finetune")
finetune.figure("speed")(finetune_speed.measure)
finetune.figure("quality")(finetune_quality.measure)
finetune.figure("methods")(finetune_methods.measure)

if __name__ == "__main__":
    finetune.main()
