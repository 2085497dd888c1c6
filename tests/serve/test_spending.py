"""Where a gateway's processor time goes: every nanosecond of it to one thing, and to the right one."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sqlalchemy import Connection, insert, select

from faults.house import ask, gateway, open_house
from faults.load import until
from feilun.models.threads import ENGINE, named
from feilun.serve import spending as module
from feilun.serve.batching import Batcher, Scored
from feilun.serve.spending import Spending, cores
from feilun.store import gateways, tables
from feilun.store.database import Database
from feilun.store.gateways import DAY_US, Sample, Used

MS = 10**6


def burn(ms: int) -> None:
    """Use the calling thread's processor time."""
    end = time.thread_time_ns() + ms * MS
    while time.thread_time_ns() < end:
        pass


@contextmanager
def beside(work: Callable[[], None]) -> Iterator[None]:
    thread = threading.Thread(target=work)
    thread.start()
    yield
    thread.join()


class Wide:
    """A real network that OpenVINO divides among its own threads; some 20 core-milliseconds for each row."""

    labels, context = ("yes", "no"), 8

    def __init__(self) -> None:
        import openvino
        from openvino import opset13 as ops
        from openvino import properties

        rows = self.rows = ops.parameter([-1, 512], np.float32)
        weights = np.random.default_rng(0).normal(0, 0.04, (512, 512)).astype(np.float32)
        for _ in range(12):
            rows = ops.relu(ops.matmul(rows, ops.constant(weights), False, False))
        settings = {properties.inference_num_threads: 2, properties.hint.enable_cpu_pinning: False}
        with named(ENGINE):
            network = openvino.Model([rows], [self.rows], "wide")
            self.compiled = openvino.Core().compile_model(network, "CPU", settings)
        self.request = self.compiled.create_infer_request()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [[1] for _ in texts]

    def run(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        found = self.request.infer([np.ones((400 * len(rows), 512), np.float32)])[0]
        return np.asarray(found[: len(rows), :2])

    def outputs(self, rows: Sequence[Sequence[int]]) -> list[NDArray[np.float32]]:
        return list(self.run(rows))


ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wide() -> Wide:
    return Wide()


def alone(test: Callable[[Wide], None]) -> Callable[[], None]:
    """Run a test in a new process, as a gateway is one: in this one other tests may have started unnamed threads."""

    def in_a_process_of_its_own() -> None:
        code = f"import {test.__module__} as t; t.{test.__name__}.itself(t.Wide())"
        found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stderr

    in_a_process_of_its_own.__dict__["itself"] = test
    return in_a_process_of_its_own


def ask_at_once(batcher: Batcher, engine: Wide, requests: Sequence[Sequence[Sequence[int]]]) -> list[Scored]:
    async def all_at_once() -> list[Scored]:
        return await asyncio.gather(*(batcher.run(engine, rows) for rows in requests))

    try:
        return asyncio.run(all_at_once())
    finally:
        batcher.close()


@alone
def test_the_engine_is_charged_what_the_process_used_where_nothing_else_runs(wide: Wide) -> None:
    spending = Spending()
    with named(ENGINE):
        wide.run([[1]])
        begun = time.process_time_ns()
        with spending.work() as work:
            for _ in range(10):
                wide.run([[1]])
        used = time.process_time_ns() - begun
    assert 0.97 * used <= work.ns <= used + MS


def test_the_engine_is_not_charged_for_what_others_do_meanwhile(wide: Wide) -> None:
    spending = Spending()
    begun = time.process_time_ns()
    with named(ENGINE), beside(partial(burn, 300)), spending.work() as work:
        for _ in range(5):
            wide.run([[1]])
    used = time.process_time_ns() - begun
    assert 0 < work.ns <= used - 250 * MS


@alone
def test_the_engine_s_time_is_also_that_of_threads_which_python_does_not_know(wide: Wide) -> None:
    """The tests above would not hold for the calling thread's clock alone."""
    spending = Spending()
    own, end = 0, time.monotonic() + 20
    with named(ENGINE):
        while spending.engine_ns < own + 20 * MS and time.monotonic() < end:
            begun = time.thread_time_ns()
            with spending.work():
                wide.run([[1]])
            own += time.thread_time_ns() - begun
    assert spending.engine_ns > own + 15 * MS


@settings(max_examples=15)
@given(sizes=st.lists(st.integers(1, 3), min_size=1, max_size=4), budget=st.integers(1, 9))
def test_the_shares_of_requests_sum_to_what_the_engine_used(wide: Wide, sizes: list[int], budget: int) -> None:
    spending = Spending()
    scored = ask_at_once(Batcher(budget, spending), wide, [[[1]] * size for size in sizes])
    assert sum(s.compute_ns for s in scored) == spending.engine_ns > 0


def test_a_request_of_empty_rows_is_charged_too(wide: Wide) -> None:
    spending = Spending()
    (scored,) = ask_at_once(Batcher(9, spending), wide, [[[], []]])
    assert scored.compute_ns == spending.engine_ns > 0


@alone
def test_a_load_beside_a_run_shares_the_engine_s_threads_and_nothing_counts_twice(wide: Wide) -> None:
    spending = Spending()
    other = Wide()

    def load() -> None:
        with named(ENGINE), spending.work(loads=True):
            for _ in range(8):
                other.run([[1]])

    begun = time.process_time_ns()
    with beside(load), named(ENGINE), spending.work() as work:
        for _ in range(8):
            wide.run([[1]])
    used = time.process_time_ns() - begun
    assert spending.engine_ns == work.ns
    assert 0.9 * used <= spending.engine_ns + spending.load_ns <= used
    assert 0.5 < spending.load_ns / spending.engine_ns < 2


def test_a_run_that_fails_is_counted_all_the_same() -> None:
    spending = Spending()
    with pytest.raises(ZeroDivisionError), spending.work():
        burn(5)
        raise ZeroDivisionError
    assert spending.engine_ns >= 5 * MS


def test_the_first_row_begins_with_the_process_and_each_goes_on_from_the_one_before() -> None:
    spending = Spending()
    first = spending.sample()
    age = (time.clock_gettime(time.CLOCK_BOOTTIME) - (psutil.Process().create_time() - psutil.boot_time())) * 1e9
    assert abs(first.wall_ns - age) < 0.5e9
    assert 0.9 * time.process_time_ns() <= first.core_ns <= time.process_time_ns()
    assert spending.sample() is first  # until it is known to be written
    spending._waiting = None
    burn(20)
    second = spending.sample()
    assert (first.sequence, second.sequence, second.cores) == (1, 2, cores())
    assert 20 * MS <= second.core_ns < 0.5 * first.core_ns


def test_a_row_that_is_written_twice_counts_once(database: Database) -> None:
    row = Sample("g" * 26, 1, "here", 2, 10, 7, 4, 2)
    for _ in range(2):
        database.write(partial(gateways.append, sample=row))
    with database.read() as connection:
        (found,) = connection.execute(select(tables.gateways)).all()
        assert found.core_ns == 7
        assert gateways.used(connection, found.at, found.at + 1) == {found.at // DAY_US: Used(20, 7, 4, 2)}
        assert gateways.used(connection, found.at + 1, found.at + 2) == {}


def test_gateways_side_by_side_on_one_machine_share_its_cores(database: Database) -> None:
    second = 10**6
    rows = [  # gateway, machine, from, to: in seconds of the first day
        ("a", "one", 0, 100),
        ("a", "one", 100, 200),
        ("b", "one", 150, 300),  # 50 of them beside a
        ("c", "one", 160, 180),  # within both
        ("d", "two", 0, 100),
    ]

    def write(connection: Connection) -> None:
        for i, (name, machine, begun, ended) in enumerate(rows):
            values = {"gateway": name, "sequence": i, "machine": machine, "cores": 2, "at": ended * second}
            values |= {"wall_ns": (ended - begun) * 10**9, "core_ns": 10, "engine_ns": 4, "load_ns": 1}
            connection.execute(insert(tables.gateways).values(values))

    database.write(write)
    with database.read() as connection:
        assert gateways.used(connection, 0, DAY_US) == {0: Used((300 + 100) * 2 * 10**9, 50, 20, 5)}


def test_a_container_s_quota_bounds_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "cpu.max"
    monkeypatch.setattr(module, "_QUOTA", file)
    unbounded = cores()
    for text, expected in (("max 100000", unbounded), ("100000 100000", 1), ("10000 100000", 1), ("?", unbounded)):
        file.write_text(text)
        assert cores() == expected


def test_a_gateway_writes_down_what_it_used_until_it_stops(tmp_path: Path) -> None:
    with open_house(f"sqlite:///{tmp_path}/feilun.db", tmp_path) as house:
        with gateway(house, sample_s=0.2) as running:
            process = psutil.Process(running.process.pid)
            for _ in range(20):
                assert ask(running, house.tokens["acme"], ["good film"] * 20).status_code == 200

            def rows() -> list[object]:
                with house.database.read() as connection:
                    return list(connection.execute(select(tables.gateways)))

            until(lambda: len(rows()) >= 2)
            before = process.cpu_times()
            assert running.stop() == 0
        with house.database.read() as connection:
            kept = connection.execute(select(tables.gateways).order_by(tables.gateways.c.sequence)).all()
            charged = connection.execute(select(tables.usage.c.compute_ns)).scalars().all()
        assert [row.sequence for row in kept] == list(range(1, len(kept) + 1))
        assert len({row.gateway for row in kept}) == 1
        assert sum(row.core_ns for row in kept) >= (before.user + before.system) * 1e9 - 2 * 10**7
        assert sum(row.engine_ns for row in kept) == sum(charged) > 0
        assert all(0 < row.engine_ns + row.load_ns <= row.core_ns for row in kept[:1])
        assert kept[0].load_ns > 0
