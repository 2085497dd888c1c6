"""The allocation closes: what a gateway says that it used is what the kernel says, and each part goes to something."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.allocation import closing, engine_ns, stop
from faults.house import open_house, start
from faults.load import Clients

SEED = 20261122


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_requests_overhead_loads_and_idle_time_are_what_the_kernel_measured_within_one_percent(
    new_url: Callable[[str], str], tmp_path: Path, kind: str
) -> None:
    with open_house(new_url(kind), tmp_path) as house:
        running = start(house, sample_s=0.5)
        try:
            clients = Clients([running.base], [house.tokens["acme"]])
            before = engine_ns(running.process.pid)
            with clients.at_work(8, SEED):
                time.sleep(5)
            engine = engine_ns(running.process.pid) - before
            readings = stop(running.process)
        finally:
            running.process.kill()
        found = closing(house.database, readings)
    assert found.requests == len(clients.answers) > 100
    assert found.used_apart < 0.01
    assert found.offered_apart < 0.01
    m = found.measured
    assert m.engine_ns == m.requests_ns and m.unsampled_ns == 0
    assert 0 < m.requests_ns <= 1.02 * engine  # which also waits a moment for the next run
    assert min(m.overhead_ns, m.loads_ns, m.idle_ns) > 0
