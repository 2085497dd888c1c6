"""Budgets, rates and queues (cases 22, 23, 24)."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import statistics
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from faults.clocks import clocked
from faults.counting import Count, Setup, case, not_tried
from faults.crashes import Fleet, fleet
from faults.house import WORDS, House, Running, ask
from faults.load import broken_invariants
from faults.repeats import entries
from faults.shim import Shim, compiler
from faults.workers import crew
from feilun.bill.verify import verify

FOR_TEN = 10 * 10**9  # of the plan "tens": one unit of money a request
ASKED = 100


def hundred(gateways: Fleet, token: str) -> list[Any]:
    """A hundred requests at once, by all gateways in turn."""
    turn = itertools.cycle(gateways.running)
    with ThreadPoolExecutor(ASKED) as pool:
        return [one.result() for one in [pool.submit(ask, next(turn), token) for _ in range(ASKED)]]


def _ten_of(house: House, name: str, replies: list[Any]) -> list[str]:
    statuses = Counter(r.status_code for r in replies)
    broken = [] if statuses == {200: 10, 429: 90} else [f"answered with {dict(statuses)}"]
    broken += [] if entries(house, name) == 10 else [f"{entries(house, name)} entries"]
    told = [r for r in replies if r.status_code == 429]
    return broken + ([] if all(int(r.headers.get("retry-after", 0)) > 0 for r in told) else ["429 without Retry-After"])


@case(
    22, "100 at once against a budget for 10, four gateways or four workers, a key seen for the first time: exactly 10"
)
def budgets(setup: Setup) -> Count:
    """A new tenant and key each time; the planted bug looks at what was spent, and not at what is held."""
    count = Count()
    answers: list[dict[str, Any]] = []
    with setup.house() as house, fleet(house, 4) as gateways:
        for number in range(setup.times(20, 3)):
            name = f"ten-{number}"
            token = house.tenant(name, plan="tens", budget_nano=FOR_TEN)
            replies = hundred(gateways, token)
            answers += [r.json() | {"key": str(n)} for n, r in enumerate(replies) if r.status_code == 200]
            count.trial(_ten_of(house, name, replies))
        count.trial(broken_invariants(house.database, [a | {"key": a["id"]} for a in answers]))
    with setup.house() as house, crew(house) as running:
        for number in range(setup.times(20, 3)):
            name = f"ten-{number}"
            token = house.tenant(name, plan="tens", budget_nano=FOR_TEN)
            count.trial(_ten_of(house, name, hundred(Fleet(house, running=[running]), token)))
    bug = "budget-without-holds"
    with setup.house() as house, fleet(house, 4, planted=bug) as gateways:
        token = house.tenant("ten", plan="tens", budget_nano=FOR_TEN)
        count.controls[bug] = bool(_ten_of(house, "ten", hundred(gateways, token)))
    return count


@case(23, "rate limit N, 10 N at once, two gateways or four workers: at most N in any window")
def rates(setup: Setup) -> Count:
    """Ten a minute: a hundred at once, then again half a minute and a whole minute later by the shim's clock."""
    if compiler() is None:
        return not_tried("there is no C compiler for the library that shifts the clock")
    count = Count()
    with tempfile.TemporaryDirectory(prefix="faults-shim-") as folder:
        shim = Shim(Path(folder))
        with clocked(setup, shim) as inside:
            with inside.house() as house, fleet(house, 2) as gateways:
                for number in range(setup.times(10, 2)):
                    count.trial(_windows(house, gateways, shim, f"minute-{number}"), 3)
                count.trial([str(problem) for problem in verify(house.database).problems])
            with inside.house() as house, crew(house) as running:
                for number in range(setup.times(10, 2)):
                    gateways = Fleet(house, running=[running])
                    count.trial(_windows(house, gateways, shim, f"minute-{number}"), 3)
            bug = "rates-in-memory"
            with inside.house() as house, fleet(house, 2, planted=bug) as gateways:
                count.controls[bug] = bool(_windows(house, gateways, shim, "minute"))
    return count


def _windows(house: House, gateways: Fleet, shim: Shim, name: str) -> list[str]:
    shim.shift_clock(0)
    token = house.tenant(name, plan="minute")
    broken = []
    for later, expected in ((0, 10), (30, 10), (75, 20)):
        shim.shift_clock(later * 10**6)
        replies = hundred(gateways, token)
        told = [r for r in replies if r.status_code == 429]
        broken += [] if {r.status_code for r in replies} <= {200, 429} else ["answered otherwise than 200 and 429"]
        broken += [] if all(0 < int(r.headers["retry-after"]) <= 60 for r in told) else ["429 without Retry-After"]
        found = entries(house, name)
        broken += [] if found == expected else [f"after {later} s {found} entries, not {expected}"]
    shim.shift_clock(0)
    return broken


PLACES = 24  # of the small gateway's queue
TIMES = 5
BOUND_MS = 100.0


@dataclass
class Flood:
    """Requests at their own pace, whether or not those before were answered; each waits for nobody."""

    running: Running
    token: str
    taken: list[float] = field(default_factory=list)  # seconds of those who were answered
    refused: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    answers: list[dict[str, Any]] = field(default_factory=list)
    _idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=list)

    async def pour(self, rate: float, seconds: float, seed: int) -> None:
        """``rate`` requests a second, at random instants (Poisson)."""
        chance = random.Random(seed)
        begun, at = time.monotonic(), 0.0
        async with asyncio.TaskGroup() as group:
            while at < seconds:
                await asyncio.sleep(max(0.0, begun + at - time.monotonic()))
                group.create_task(self._ask(" ".join(chance.choices(WORDS, k=6))))
                at += chance.expovariate(rate)
        for _, writer in self._idle:
            writer.close()

    async def capacity(self, clients: int, seconds: float) -> float:
        """Answers a second that ``clients`` get who each wait for their answer."""
        end = time.monotonic() + seconds

        async def client(chance: random.Random) -> None:
            while time.monotonic() < end:
                await self._ask(" ".join(chance.choices(WORDS, k=6)))

        await asyncio.gather(*(client(random.Random(n)) for n in range(clients)))
        for _, writer in self._idle:
            writer.close()
        return self.statuses[200] / seconds

    async def _ask(self, text: str) -> None:
        port = int(self.running.base.rsplit(":", 1)[1])
        reader, writer = self._idle.pop() if self._idle else await asyncio.open_connection("127.0.0.1", port)
        body = json.dumps({"model": "reviews", "input": text}).encode()
        head = f"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {self.token}\r\n"
        begun = time.perf_counter()
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        said = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(int(line.split(":")[1]) for line in said.split("\r\n") if line.startswith("content-length"))
        read = await reader.readexactly(length)
        status = int(said.split(" ", 2)[1])
        self.statuses[status] += 1
        (self.taken if status == 200 else self.refused).append(time.perf_counter() - begun)
        if status == 200:
            self.answers.append(json.loads(read))
        self._idle.append((reader, writer))


@case(24, "five times capacity: the excess refused in 100 ms and not charged, memory flat, answers bounded")
def five_times(setup: Setup) -> Count:
    """Each request is a trial."""
    count = Count()
    with setup.house() as house, fleet(house, 1, queue_requests=PLACES) as gateways:
        token, running = house.tokens["acme"], gateways.running[0]
        process = psutil.Process(running.process.pid)
        alone = Flood(running, token)
        capacity = asyncio.run(alone.capacity(PLACES // 2, 3.0))
        before = process.memory_info().rss
        flood = Flood(running, token)
        asyncio.run(flood.pour(TIMES * capacity, setup.times(30, 5), setup.seed))
        grown = process.memory_info().rss - before
        charged = entries(house, "acme")
        answers = [a | {"key": a["id"], "token": token} for a in alone.answers + flood.answers]
        broken = broken_invariants(house.database, answers)
    late = _p99(flood.refused) * 1000
    usual, crowded = statistics.median(alone.taken) * 1000, _p99(flood.taken) * 1000
    broken += [] if set(flood.statuses) <= {200, 503} else [f"answered with {dict(flood.statuses)}"]
    broken += [] if flood.statuses[503] else ["nobody was refused"]
    broken += [] if charged == len(answers) else [f"{charged} charged, {len(answers)} answered"]
    broken += [] if late < BOUND_MS else [f"99 of 100 were refused within {late:.0f} ms, not {BOUND_MS:.0f}"]
    broken += [] if crowded < max(2000.0, 20 * usual) else [f"99 of 100 were answered within {crowded:.0f} ms"]
    broken += [] if grown < 30 * 2**20 else [f"memory grew by {grown >> 20} MB"]
    count.trial(broken, sum(flood.statuses.values()))
    count.notes.append(
        f"capacity {capacity:.0f}/s, asked {TIMES} times that: {flood.statuses[200]} answered (p99 {crowded:.0f} ms; "
        f"{usual:.0f} ms in the middle before), {flood.statuses[503]} refused (median "
        f"{statistics.median(flood.refused or [0.0]) * 1000:.0f} ms, p99 {late:.0f} ms), memory {grown / 2**20:+.1f} MB"
    )
    return count


def _p99(values: list[float]) -> float:
    return sorted(values)[int(0.99 * (len(values) - 1))] if values else 0.0
