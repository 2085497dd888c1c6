"""Clients with logs of their own, and the invariants that the ledger must keep towards those logs."""

from __future__ import annotations

import http.client
import itertools
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import func, select

from faults.house import WORDS
from feilun.store import audit, tables
from feilun.store.database import Database

GONE = (http.client.HTTPException, OSError)  # what a client sees of a gateway that dies or is not there


@dataclass
class Clients:
    """Threads that each send one request after the other, each until it is answered or the clients give up."""

    bases: list[str]  # where gateways are; changed while the clients run
    tokens: list[str]
    retry: bool = True  # False: a lost request is given up, as a client without patience does
    answers: list[dict[str, Any]] = field(default_factory=list)
    refused: Counter[int] = field(default_factory=Counter)
    lost: int = 0
    broken_off: int = 0  # sent, and no whole answer came: the gateway died, or its connection did
    slowest: float = 0.0  # seconds that one attempt took
    stop: threading.Event = field(default_factory=threading.Event)
    giving_up: float = 30.0
    pause: float = 0.01  # leave the processor to the gateways: these clients share it with them
    timeout: float = 10.0
    prefix: str = "key"  # of idempotency keys
    given_up: list[Asked] = field(default_factory=list)

    @contextmanager
    def at_work(self, count: int, seed: int) -> Iterator[None]:
        """Let ``count`` clients work. Tenants use the same idempotency keys, on purpose (case 8)."""
        numbers = itertools.count()
        threads = [threading.Thread(target=self._work, args=(random.Random(seed + n), numbers)) for n in range(count)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stop.set()
            for thread in threads:
                thread.join()

    def _work(self, chance: random.Random, numbers: Iterator[int]) -> None:
        connections: dict[str, http.client.HTTPConnection] = {}
        while not self.stop.is_set():
            texts = [" ".join(chance.choices(WORDS, k=chance.randint(1, 8))) for _ in range(chance.randint(1, 3))]
            turn, which = divmod(next(numbers), len(self.tokens))
            self._ask(connections, chance, Asked(f"{self.prefix}-{turn}", self.tokens[which], texts))
            time.sleep(self.pause)
        for connection in connections.values():
            connection.close()

    def _ask(self, connections: dict[str, http.client.HTTPConnection], chance: random.Random, asked: Asked) -> None:
        end = time.monotonic() + self.giving_up
        while time.monotonic() < end:
            base = chance.choice(self.bases)
            if base not in connections:
                connections[base] = http.client.HTTPConnection(base.removeprefix("http://"), timeout=self.timeout)
            begun = time.monotonic()
            try:
                status, headers, body = asked.send(connections[base])
            except GONE:
                connections.pop(base).close()
                self.broken_off += 1
                if not self.retry:
                    self.given_up.append(asked)
                    return
                time.sleep(0.02)
                continue
            finally:
                self.slowest = max(self.slowest, time.monotonic() - begun)
            if status == 200:
                replayed = "idempotent-replay" in headers
                more = {"key": asked.key, "token": asked.token, "texts": asked.texts, "replayed": replayed}
                self.answers.append(json.loads(body) | more)
                return
            self.refused[status] += 1
            if status not in (409, 503):
                return
            time.sleep(0.1)
        self.lost += 1

    def ask_again(self) -> None:
        """Ask for all that was given up, with patience: what was posted is replayed, the rest is answered now."""
        again, self.given_up, self.retry = self.given_up, [], True
        connections: dict[str, http.client.HTTPConnection] = {}
        for asked in again:
            self._ask(connections, random.Random(0), asked)
        for connection in connections.values():
            connection.close()


@dataclass(frozen=True)
class Asked:
    """What one client wants."""

    key: str
    token: str
    texts: list[str]

    def send(self, connection: http.client.HTTPConnection) -> tuple[int, dict[str, str], bytes]:
        """Status, headers in lower case, and the whole body."""
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        body = json.dumps({"model": "reviews", "input": self.texts})
        connection.request("POST", "/v1/classify", body, headers | {"Idempotency-Key": self.key})
        reply = connection.getresponse()
        return reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read()


def broken_invariants(database: Database, answers: list[dict[str, Any]], *, all_delivered: bool = True) -> list[str]:
    """I1 to I3 of RELIABILITY, as sentences about what does not hold."""
    usage, postings = tables.usage, tables.postings
    with database.read() as connection:
        rows = connection.execute(select(usage.c.request, usage.c.tokens, usage.c.amount_nano)).all()
        sums = (
            connection.execute(select(func.sum(postings.c.amount_nano)).group_by(postings.c.currency)).scalars().all()
        )
        found = [str(problem) for problem in audit.verify(connection)]
    posted = {row.request: (row.tokens, row.amount_nano) for row in rows}
    told = {a["id"]: (a["usage"]["tokens"], a["usage"]["amount_nano"]) for a in answers}
    found += [f"I1: answer {i} is not posted" for i in told if i not in posted]
    found += [
        f"I1: {i} was answered {said}, posted {posted[i]}" for i, said in told.items() if said != posted.get(i, said)
    ]
    found += [
        f"I1: key {k} has {n} requests"
        for k, n in Counter((t, k) for t, k, _ in {(a.get("token"), a["key"], a["id"]) for a in answers}).items()
        if n > 1
    ]
    found += [f"I2: {i} is posted and nobody was answered" for i in posted if all_delivered and i not in told]
    found += [f"I3: postings sum to {total}" for total in sums if int(total) != 0]
    return found


class Posted:
    """I4: posted rows never change."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._seen: dict[str, tuple[Any, ...]] = {}

    def changed(self) -> list[str]:
        """Compare with what was seen before, and remember."""
        with self._database.read() as connection:
            now = {row.request: tuple(row) for row in connection.execute(select(tables.usage))}
        changes = [f"I4: {i} was changed" for i, row in self._seen.items() if now.get(i) != row]
        self._seen = now
        return changes


def until(what: Callable[[], bool], timeout: float = 10.0) -> None:
    """Wait for something that must happen."""
    end = time.monotonic() + timeout
    while not what():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
