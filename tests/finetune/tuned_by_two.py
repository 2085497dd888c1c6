"""What each process of torchrun does in test_torchrun.py."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import feilun.finetune.step  # noqa: F401 - registers the step
from feilun.pipeline.kinds import Model
from tests.models import tiny


def main() -> None:
    folder = Path(sys.argv[1])
    bench = tiny.Bench(folder)
    base, examples = (bench.store.get(digest) for digest in sys.argv[2:4])
    tuned = bench.run("finetune", Model, tiny.QUICK | {"epochs": 2}, base=base, examples=examples)
    again = bench.run("finetune", Model, tiny.QUICK | {"epochs": 2}, base=base, examples=examples)
    bench.store.database.close()
    (folder / f"said-{os.environ['RANK']}.json").write_text(json.dumps([tuned.digest, again.digest]))


if __name__ == "__main__":
    main()
