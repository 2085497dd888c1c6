"""Services that report usage, to measure with: events by the thousand, and a gateway that takes them.

python -m benchmarks.reporting '{"url": ..., "artifacts": ..., "port": ...}'
"""

from __future__ import annotations

import json
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path

from feilun.accounts import keys, tenants
from feilun.store import cloudevents, events
from feilun.store.database import Database, now_us
from feilun.store.events import Event
from feilun.store.migrations import open_database
from feilun.store.periods import bounds, period_of

PEPPER = b"a pepper of more than thirty-two bytes"
METERS = ("pages", "seconds", "stored")  # summed, counted, and the latest
SOURCES = 4
BATCH = 1_000  # events in one call


class Reports:
    """Makes events of ``count`` tenants, spread over a month that is over and past its grace time.

    With ``ordered`` ids are as UUIDv7 makes them, in order of time; else as UUIDv4 does, at random.
    """

    def __init__(self, database: Database, count: int, *, seed: int = 1) -> None:
        self._random = random.Random(seed)
        self.ordered = True
        self.tenants = [f"tenant-{n:05d}" for n in range(count)]
        for name in self.tenants:
            tenants.create(database, name, plan="metered")
        with database.read() as connection:
            now = now_us(connection)
        self.period = period_of(bounds(period_of(now - 3 * 86_400 * 10**6))[0] - 1)
        self.begins, self.ends = bounds(self.period)
        self._made = 0

    def batch(self, size: int = BATCH) -> list[Event]:
        """The next events."""
        draw, made = self._random.random, []
        for _ in range(size):
            self._made += 1
            source = f"https://service.example/{self._made % SOURCES}"
            tenant = self.tenants[int(draw() * len(self.tenants))]
            at = self.begins + int(draw() * (self.ends - self.begins))
            made.append(Event(tenant, METERS[self._made % 3], source, self._id(), int(draw() * 100), at))
        return made

    def _id(self) -> str:
        """36 characters: as a UUID of version 7, a millisecond for every 64 events, or of version 4."""
        tail = self._random.getrandbits(74)
        if not self.ordered:
            head = self._random.getrandbits(48)
            return f"{head >> 16:08x}-{head & 0xFFFF:04x}-4{tail >> 62:03x}-{_variant(tail)}"
        head = self.begins // 1_000 + self._made // 64
        return f"{head >> 16:08x}-{head & 0xFFFF:04x}-7{tail >> 62:03x}-{_variant(tail)}"


def _variant(tail: int) -> str:
    return f"{0x8000 | (tail >> 48) & 0x3FFF:04x}-{tail & 0xFFFFFFFFFFFF:012x}"


def record(database: Database, batches: Sequence[Sequence[Event]]) -> float:
    """Record batches that come at once, as concurrent calls do; the seconds that it took until all were durable."""
    begun = time.perf_counter()
    jobs = [database.submit(lambda c, some=some: events.record(c, "bench", some, METERS)) for some in batches]
    recorded = sum(job.result().recorded for job in jobs)
    taken = time.perf_counter() - begun
    assert recorded == sum(len(some) for some in batches)
    return taken


def body(batch: Sequence[Event]) -> bytes:
    """A batch as a service sends it."""
    written = [
        cloudevents.write(events.Recorded(e.tenant, 0, e.source, e.id, e.meter, e.units, e.at or 0)) for e in batch
    ]
    for one in written:
        del one["sequence"]
    return json.dumps(written, separators=(",", ":")).encode()


@contextmanager
def gateway(url: str, folder: Path) -> Iterator[tuple[int, str]]:
    """A gateway in a process of its own, without a model: its port, and a key that may report."""
    with open_database(url) as database:
        tenants.create(database, "service", plan="metered")
        token = keys.create(database, PEPPER, "service", scopes=["events"]).token
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = int(taken.getsockname()[1])
    told = {"url": url, "artifacts": str(folder / "artifacts"), "port": port}
    command = [sys.executable, "-m", "benchmarks.reporting", json.dumps(told)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        _wait(port)
        yield port, token
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def send(port: int, token: str, bodies: Sequence[bytes], clients: int) -> float:
    """Send bodies over that many connections at once; the seconds until all were answered."""
    headers = {"Authorization": f"Bearer {token}", "Content-Type": cloudevents.BATCH}

    def client(mine: Sequence[bytes]) -> int:
        connection = HTTPConnection("127.0.0.1", port, timeout=120)
        recorded = 0
        for one in mine:
            connection.request("POST", "/v1/events", one, headers)
            answer = connection.getresponse()
            said = json.loads(answer.read())
            assert answer.status == 200, said
            recorded += said["recorded"]
        connection.close()
        return recorded

    with ThreadPoolExecutor(clients) as pool:
        begun = time.perf_counter()
        recorded = sum(pool.map(client, [bodies[n::clients] for n in range(clients)]))
        taken = time.perf_counter() - begun
    assert recorded == BATCH * len(bodies)
    return taken


def _wait(port: int) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            with closing(HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
                connection.request("GET", "/healthz")
                if connection.getresponse().status == 200:
                    return
        except ConnectionError:
            time.sleep(0.05)
    raise TimeoutError("the gateway is not there after 60 s")


def main() -> None:
    """Run one gateway until SIGTERM."""
    from feilun.serve.run import run_gateway
    from feilun.serve.settings import GatewaySettings

    told = json.loads(sys.argv[1])
    settings = GatewaySettings(meters=METERS, database_s=120.0)
    run_gateway(told["url"], Path(told["artifacts"]), pepper=PEPPER, plans={}, port=told["port"], settings=settings)


if __name__ == "__main__":
    main()
