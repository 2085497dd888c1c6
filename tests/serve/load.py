"""Clients with logs of their own, and the invariants that the ledger must keep towards those logs."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from sqlalchemy import func, select

from feilun.store import audit, tables
from feilun.store.database import Database
from tests.serve.house import WORDS


@dataclass
class Clients:
    """Threads that each send one request after the other, each until it is answered or the clients give up."""

    bases: list[str]  # where gateways are; changed while the clients run
    tokens: list[str]
    retry: bool = True  # False: a lost request is given up, as a client without patience does
    answers: list[dict[str, Any]] = field(default_factory=list)
    refused: Counter[int] = field(default_factory=Counter)
    lost: int = 0
    stop: threading.Event = field(default_factory=threading.Event)
    giving_up: float = 30.0

    @contextmanager
    def at_work(self, count: int, seed: int) -> Iterator[None]:
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
        with httpx.Client(timeout=10, verify=False) as http:
            while not self.stop.is_set():
                texts = [" ".join(chance.choices(WORDS, k=chance.randint(1, 8))) for _ in range(chance.randint(1, 3))]
                self._ask(http, chance, f"key-{next(numbers)}", texts)
                time.sleep(0.01)  # leave the processor to the gateways: these clients share it with them

    def _ask(self, http: httpx.Client, chance: random.Random, key: str, texts: list[str]) -> None:
        token = chance.choice(self.tokens)
        headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": key}
        end = time.monotonic() + self.giving_up
        while time.monotonic() < end:
            try:
                url = f"{chance.choice(self.bases)}/v1/classify"
                reply = http.post(url, json={"model": "reviews", "input": texts}, headers=headers)
            except httpx.TransportError:
                if not self.retry:
                    break
                time.sleep(0.02)
                continue
            if reply.status_code == 200:
                replayed = "idempotent-replay" in reply.headers
                self.answers.append(reply.json() | {"key": key, "texts": texts, "replayed": replayed})
                return
            self.refused[reply.status_code] += 1
            if reply.status_code not in (409, 503):
                return
            time.sleep(0.1)
        self.lost += 1


def broken_invariants(database: Database, answers: list[dict[str, Any]], *, all_delivered: bool = True) -> list[str]:
    """I1 to I4 of RELIABILITY, as sentences about what does not hold."""
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
        for k, n in Counter(k for k, _ in {(a["key"], a["id"]) for a in answers}).items()
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
    end = time.monotonic() + timeout
    while not what():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
