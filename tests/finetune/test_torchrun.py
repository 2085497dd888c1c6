"""``torchrun -m feilun run``: every process trains, one of them records."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from sqlalchemy import select

from feilun.pipeline.kinds import Model
from feilun.store import tables
from tests.models import tiny


def test_two_processes_make_one_model_and_one_record(tmp_path: Path) -> None:
    bench = tiny.Bench(tmp_path)
    base, examples = bench.base(), bench.examples()
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, "-m", "tests.finetune.tuned_by_two", str(tmp_path), base.digest, examples.digest],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = [json.loads((tmp_path / f"said-{rank}.json").read_text()) for rank in (0, 1)]
    assert len({*said[0], *said[1]}) == 1
    with bench.store.database.read() as connection:
        records = connection.execute(select(tables.runs.c.output, tables.runs.c.outcome)).all()
    assert [tuple(row) for row in records] == [(said[0][0], "finished")]
    tuned = bench.store.verify(bench.store.get(said[0][0]))
    assert isinstance(tuned, Model) and tuned.facts["rows"] == 180
    bench.store.database.close()
