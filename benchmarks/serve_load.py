"""A gateway under more than it can do: five times its capacity, releases swapped every second, SIGTERM in mid-load.

Clients are one process of asyncio on the cores of the gateway, so requests have many sentences: then asking costs
little beside answering. A flood comes at random instants (Poisson), whether or not earlier requests were answered.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks import shop as shops
from benchmarks.bench import Row, Run, row
from feilun.serve.background import free_port

INPUTS = 16  # sentences in a request
CLIENTS = 32  # that each wait for their answer: so many are inside at capacity
CALM = 16  # so many that none is refused, also where the machine is slow
TIMES = 5
REFUSED_MS, FLAT_MB = 100.0, 30.0


@dataclass
class Crowd:
    """Callers of one gateway, and what they got."""

    port: int
    shop: shops.Shop
    taken: list[float] = field(default_factory=list)  # seconds of those who were answered
    refused: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    releases: Counter[str] = field(default_factory=Counter)
    broken: int = 0  # connections that ended without an answer
    charged: int = 0  # answers, by their ids
    _ids: set[str] = field(default_factory=set)
    _idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=list)

    async def closed(self, clients: int, seconds: float) -> float:
        """Answers a second that clients get who each wait for theirs."""
        end = time.monotonic() + seconds

        async def client(chance: random.Random) -> None:
            while time.monotonic() < end:
                await self.ask(chance)

        await asyncio.gather(*(client(random.Random(n)) for n in range(clients)))
        self.hang_up()
        return self.statuses[200] / seconds

    async def flood(self, rate: float, seconds: float, seed: int) -> None:
        """``rate`` requests a second, at random instants."""
        chance = random.Random(seed)
        begun, at = time.monotonic(), 0.0
        async with asyncio.TaskGroup() as group:
            while at < seconds:
                await asyncio.sleep(max(0.0, begun + at - time.monotonic()))
                group.create_task(self.ask(chance))
                at += chance.expovariate(rate)
        self.hang_up()

    async def ask(self, chance: random.Random) -> None:
        """One request; what comes of it is counted."""
        try:
            reader, writer = self._idle.pop() if self._idle else await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            self.broken += 1
            return
        first = chance.randrange(len(self.shop.texts) - INPUTS)
        body = json.dumps({"model": "reviews", "input": self.shop.texts[first : first + INPUTS]}).encode()
        head = f"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {self.shop.token}\r\n"
        begun = time.perf_counter()
        try:
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            said = await reader.readuntil(b"\r\n\r\n")
            length = int(said.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            answer = json.loads(await reader.readexactly(length))
        except (OSError, asyncio.IncompleteReadError):
            self.broken += 1
            return
        status = int(said.split(b" ", 2)[1])
        self.statuses[status] += 1
        (self.taken if status == 200 else self.refused).append(time.perf_counter() - begun)
        if status == 200:
            self.releases[answer["release"]] += 1
            self._ids.add(answer["id"])
            self.charged = len(self._ids)
        if b"connection: close" not in said.lower():
            self._idle.append((reader, writer))

    def hang_up(self) -> None:
        """Close what is open."""
        for _, writer in self._idle:
            writer.close()
        self._idle.clear()


def percentile(values: list[float], share: float) -> float:
    """In milliseconds; 0 of nothing."""
    return sorted(values)[int(share * (len(values) - 1))] * 1000 if values else 0.0


def overload(run: Run) -> Iterator[Row]:
    """Five times capacity, for five minutes."""
    with run.database("sqlite") as url, _gateway(run, url) as (crowd, process):
        capacity, usual = _capacity(crowd, run.size(20, 3))
        flood = Crowd(crowd.port, crowd.shop)
        before = _requests(crowd)
        asyncio.run(flood.flood(TIMES * capacity, run.size(30, 2), 1))  # what a first overload makes it keep
        memory = process.memory_info().rss
        kept = Crowd(crowd.port, crowd.shop)
        asyncio.run(kept.flood(TIMES * capacity, run.size(300, 5), 2))
        grown = (process.memory_info().rss - memory) / 2**20
        unbilled = _requests(crowd) - before - len(flood.taken) - len(kept.taken)
    unexpected = sum(n for status, n in kept.statuses.items() if status not in (200, 503)) + kept.broken
    yield row("load-capacity", f"requests of {INPUTS} sentences by {CLIENTS} clients", "requests/s", [capacity])
    yield row("load-overload-rate", "asked at once, times capacity", "x", [len_of(kept) / run.size(300, 5) / capacity])
    yield row(
        "load-answered", "answered under overload, of capacity", "x", [len(kept.taken) / run.size(300, 5) / capacity]
    )
    yield row("load-refused-p50", "until refused, half of them", "ms", [percentile(kept.refused, 0.5)])
    yield row(
        "load-refused-p99",
        "until refused, 99 of 100",
        "ms",
        [percentile(kept.refused, 0.99)],
        target=REFUSED_MS,
        at_most=True,
    )
    yield row("load-p99-at-capacity", "until answered at capacity, 99 of 100", "ms", [usual])
    yield row("load-p99", "until answered under overload, 99 of 100", "ms", [percentile(kept.taken, 0.99)])
    yield row(
        "load-p99-ratio",
        "the same against that at capacity",
        "x",
        [percentile(kept.taken, 0.99) / usual],
        target=2.0,
        at_most=True,
    )
    yield row("load-memory", "more memory after five minutes of it", "MB", [grown], target=FLAT_MB, at_most=True)
    yield row(
        "load-misbilled",
        "charged and not answered, or answered and not charged",
        "requests",
        [abs(unbilled)],
        target=0,
        at_most=True,
    )
    yield row(
        "load-unexpected",
        "answered otherwise than 200 and 503, or not at all",
        "requests",
        [unexpected],
        target=0,
        at_most=True,
    )


def swaps(run: Run) -> Iterator[Row]:
    """Another release every second, at capacity."""
    from feilun.store import releases
    from feilun.store.migrations import open_database

    seconds = run.size(120, 4)
    with run.database("sqlite") as url, _gateway(run, url) as (crowd, _), open_database(url) as database:
        digests = [
            releases.pointer(database, "reviews").release,
            _another(crowd.shop, Path(tempfile.mkdtemp(dir=run.folder))),
        ]
        capacity, usual = _capacity(crowd, run.size(20, 3), CALM)
        busy = Crowd(crowd.port, crowd.shop)
        done = 0

        async def swap() -> None:
            nonlocal done
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                await asyncio.sleep(1.0)
                now = await asyncio.to_thread(releases.pointer, database, "reviews")
                to = digests[digests.index(now.release) - 1]
                await asyncio.to_thread(
                    lambda to=to, now=now: releases.promote(
                        database, "reviews", to, expected_version=now.version, reason="to be measured"
                    )
                )
                done += 1

        async def both() -> float:
            rate, _ = await asyncio.gather(busy.closed(CALM, seconds), swap())
            return rate

        rate = asyncio.run(both())
    yield row("load-swaps", "releases swapped under load", "swaps", [done])
    yield row("load-swap-both", "releases that answered", "releases", [len(busy.releases)], target=2)
    yield row(
        "load-swap-failed",
        "requests not answered meanwhile",
        "requests",
        [busy.statuses.total() - busy.statuses[200] + busy.broken],
        target=0,
        at_most=True,
    )
    yield row("load-swap-rate", "requests meanwhile", "requests/s", [rate], peer=("no swaps", [capacity]))
    yield row(
        "load-swap-p99",
        "until answered meanwhile, 99 of 100",
        "ms",
        [percentile(busy.taken, 0.99)],
        peer=("no swaps", [usual]),
    )


def told_to_stop(run: Run) -> Iterator[Row]:
    """SIGTERM at capacity: what was begun is answered."""
    lost, seconds, misbilled = 0, [], 0
    for number in range(run.size(10, 1)):
        with run.database("sqlite") as url, _gateway(run, url) as (crowd, process):

            async def stop(process: psutil.Process = process, number: int = number) -> float:
                await asyncio.sleep(2.0 + 0.07 * number)
                begun = time.monotonic()
                process.send_signal(signal.SIGTERM)
                await asyncio.to_thread(process.wait, 60)
                return time.monotonic() - begun

            async def both(crowd: Crowd = crowd) -> float:
                working = asyncio.ensure_future(crowd.closed(CALM, 3600))
                taken = await stop()
                working.cancel()
                await asyncio.gather(working, return_exceptions=True)
                return taken

            seconds.append(asyncio.run(both()))
            lost += crowd.statuses.total() - crowd.statuses[200]
            misbilled += abs(_charged(url) - len(crowd.taken))
    yield row("load-sigterm", "from SIGTERM to the end, at capacity", "s", seconds)
    yield row(
        "load-sigterm-misbilled",
        "charged and not answered, or the other way round",
        "requests",
        [misbilled],
        target=0,
        at_most=True,
    )
    yield row("load-sigterm-refused", "answered otherwise than 200", "requests", [lost], target=0, at_most=True)


def len_of(crowd: Crowd) -> int:
    """How many requests were answered at all."""
    return crowd.statuses.total()


def _capacity(crowd: Crowd, seconds: float, clients: int = CLIENTS) -> tuple[float, float]:
    """Requests a second, and the 99th percentile in ms, of a gateway that is warm."""
    asyncio.run(Crowd(crowd.port, crowd.shop).closed(clients, max(1.0, seconds / 5)))
    capacity = asyncio.run(crowd.closed(clients, seconds))
    return capacity, percentile(crowd.taken, 0.99)


def _requests(crowd: Crowd) -> int:
    return _charged(crowd.shop.url)


def _charged(url: str) -> int:
    from sqlalchemy import func, select

    from feilun.store import tables
    from feilun.store.migrations import open_database

    with open_database(url) as database, database.read() as connection:
        return int(connection.execute(select(func.count()).select_from(tables.usage)).scalar_one())


@contextmanager
def _gateway(run: Run, url: str) -> Iterator[tuple[Crowd, psutil.Process]]:
    """A gateway in a process of its own, and callers for it."""
    with tempfile.TemporaryDirectory(dir=run.folder) as folder:
        shop = shops.build(url, Path(folder))
        port = free_port()
        told = {"url": shop.url, "artifacts": str(shop.artifacts), "port": port, "metering": True}
        command = [sys.executable, "-m", "benchmarks.shop", json.dumps(told)]
        started = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            shops._wait(f"http://127.0.0.1:{port}/readyz")
            yield Crowd(port, shop), psutil.Process(started.pid)
        finally:
            if started.poll() is None:
                started.send_signal(signal.SIGTERM)
            started.wait(60)


def _another(shop: shops.Shop, folder: Path) -> str:
    """Another release of the same name: the same weights and probes, another head. Registered, not promoted."""
    from feilun.pipeline.kinds import Model
    from feilun.store import releases
    from feilun.store.artifacts import ArtifactStore
    from feilun.store.migrations import open_database

    with open_database(shop.url) as database:
        store = ArtifactStore(shop.artifacts, database)
        (first,) = releases.registered(database, "reviews")
        (parent,) = store.get(first).parents
        old = store.get(parent)
        copied = Path(shutil.copytree(old.path, folder / "another", ignore=shutil.ignore_patterns("manifest.json")))
        config = json.loads((copied / "config.json").read_text())
        labels = [f"{label}-too" for label in config["id2label"].values()]
        (copied / "config.json").chmod(0o644)
        (copied / "config.json").write_text(json.dumps({"id2label": dict(enumerate(labels))}))
        model = store.add(Model, copied, parents=[], facts=old.facts | {"labels": labels})
        return shops.release(store, model, folder / "another-release").digest
