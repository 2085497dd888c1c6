"""Streams that are broken off by either side (case 3), and what is charged where nothing was said (case 4)."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select

from faults.counting import Count, Setup, case
from faults.crashes import LEASE, fleet
from faults.house import House, gateway, make_writer
from faults.load import GONE, until
from feilun.store import audit, releases, tables

CLIENTS = 6
LONGEST = 200  # tokens of an answer; hardly ever more than one for a character
INTERVAL = 32  # of checkpoints
SLACK = INTERVAL + 8  # one that is due, and a piece of several tokens


@dataclass
class Read:
    """What one client saw of one stream: characters, and whether its end."""

    key: str
    tenant: str
    characters: int = 0
    tokens: int | None = None  # as the last event says
    whole: bool = False
    left: bool = False  # the client went by itself


@dataclass
class Readers:
    """Clients that each read one stream after the other, some of them not to its end."""

    house: House
    bases: list[str]
    reads: list[Read] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def at_work(self, seed: int) -> Iterator[None]:
        """Let them read."""
        threads = [threading.Thread(target=self._work, args=(random.Random(seed + n), n)) for n in range(CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stop.set()
            for thread in threads:
                thread.join()

    def _work(self, chance: random.Random, number: int) -> None:
        turn = 0
        while not self.stop.is_set():
            turn += 1
            read = Read(f"stream-{number}-{turn}", "acme")
            try:
                self._read(chance, read)
            except GONE:
                time.sleep(0.05)
            self.reads.append(read)

    def _read(self, chance: random.Random, read: Read) -> None:
        base = chance.choice(self.bases).removeprefix("http://")
        connection = http.client.HTTPConnection(base, timeout=10)
        most = chance.choice([None, None, chance.randint(1, LONGEST)])
        body: dict[str, Any] = {"model": "talk", "prompt": f"good {chance.random()}", "max_tokens": LONGEST}
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        headers = {"Authorization": f"Bearer {self.house.tokens[read.tenant]}", "Idempotency-Key": read.key}
        try:
            connection.request(
                "POST", "/v1/completions", json.dumps(body), headers | {"Content-Type": "application/json"}
            )
            reply = connection.getresponse()
            while reply.status == 200 and (line := reply.readline()):
                if line.startswith(b"data: {"):
                    said = json.loads(line[6:])
                    read.characters += sum(len(choice["text"]) for choice in said.get("choices", []))
                    read.tokens = (said.get("usage") or {}).get("completion_tokens")
                read.whole = read.whole or line.startswith(b"data: [DONE]")
                if most is not None and read.characters >= most:
                    read.left = True
                    return
        finally:
            connection.close()


def broken(house: House, reads: list[Read]) -> list[str]:
    """What does not hold of the rows of these streams, as sentences."""
    usage, requests = tables.usage.c, tables.requests.c
    query = select(requests.idempotency_key, requests.state, usage.more, usage.partial).outerjoin(
        tables.usage, usage.request == requests.id
    )
    with house.database.read() as connection:
        found = [str(problem) for problem in audit.verify(connection)]
        rows = {row.idempotency_key: row for row in connection.execute(query)}
    for read in reads:
        row = rows.get(read.key)
        wrote = int(json.loads(row.more or "{}").get("tokens_out", 0)) if row is not None else 0
        posted = row is not None and row.state == "posted"
        if read.characters and not posted:
            found.append(f"{read.key}: {read.characters} tokens were delivered and nothing was charged")
        if read.characters and posted and not wrote:
            found.append(f"{read.key}: {read.characters} tokens were delivered and 0 were charged")
        if posted and row is not None and row.partial is None and wrote < read.characters:
            found.append(f"{read.key}: {read.characters} tokens were delivered, {wrote} were charged")
        if posted and read.characters - wrote > SLACK:
            found.append(f"{read.key}: {read.characters} tokens were delivered, only {wrote} were charged")
        if read.whole and posted and row is not None and (row.partial is not None or wrote != read.tokens):
            found.append(f"{read.key}: read whole ({read.tokens}), charged {wrote}, partial {row.partial}")
    if any(row.state == "held" for row in rows.values()):
        found.append("a hold was left open")
    return found


def _no_holds(house: House) -> bool:
    with house.database.read() as connection:
        return connection.execute(select(tables.requests.c.id).where(tables.requests.c.state == "held")).first() is None


def talk(house: House) -> None:
    """A model that writes, promoted."""
    release = make_writer(house.store, house.folder, 1, "talk")
    releases.promote(house.database, "talk", release.digest, expected_version=0, reason="first")


def kill_round(house: House, kills: int, seed: int, **options: Any) -> tuple[list[str], list[Read]]:
    """``kills`` of gateways in turn while another lives and clients read, and leave."""
    talk(house)
    chance = random.Random(seed)
    with fleet(house, 2, **options) as gateways:
        readers = Readers(house, gateways.bases)
        with readers.at_work(seed):
            for _ in range(kills):
                time.sleep(chance.uniform(0.2, 0.8))
                gateways.grow()
                gateways.bury(chance.choice(gateways.running[:-1]))
            time.sleep(0.3)
        until(lambda: _no_holds(house), 20)
    return broken(house, readers.reads), readers.reads


@case(3, "streams that are broken off by kill -9 of the gateway, or by their readers")
def broken_streams(setup: Setup) -> Count:
    """Each stream is a trial."""
    count = Count()
    with setup.house() as house:
        found, reads = kill_round(house, setup.times(30, 4), setup.seed)
    count.trial(found, len(reads))
    cut = sum(not r.whole and not r.left and r.characters > 0 for r in reads)
    left = sum(r.left for r in reads)
    count.notes.append(f"{len(reads)} streams: {left} left by their readers, {cut} cut off in the middle")
    with setup.house() as house:
        found, _ = kill_round(house, setup.times(6, 4), setup.seed + 1, planted="forgotten-stream")
    count.controls["forgotten-stream"] = any("nothing was charged" in words for words in found)
    return count


@case(4, "an answer without a token is charged no token", databases=("sqlite",))
def silent_answers(setup: Setup) -> Count:
    """A stop string that stands at the beginning leaves no text; its tokens are still charged as the model says."""
    count = Count()
    with setup.house() as house, gateway(house, **LEASE) as running:
        talk(house)
        connection = http.client.HTTPConnection(running.base.removeprefix("http://"), timeout=10)
        headers = {"Authorization": f"Bearer {house.tokens['acme']}", "Content-Type": "application/json"}

        def complete(**more: Any) -> dict[str, Any]:
            body = {"model": "talk", "prompt": "good", "temperature": 0, "max_tokens": 8} | more
            connection.request("POST", "/v1/completions", json.dumps(body), headers)
            said: dict[str, Any] = json.loads(connection.getresponse().read())
            return said

        until(lambda: "choices" in complete())
        text = complete()["choices"][0]["text"]
        for length in range(1, setup.times(9, 4)):
            said = complete(stop=[text[:length]], max_tokens=length)
            wrong = [] if said["choices"][0]["text"] == "" else ["text came in spite of the stop string"]
            with house.database.read() as c:
                row = c.execute(select(tables.usage.c.more).where(tables.usage.c.request == said["id"])).scalar_one()
            charged = json.loads(row or "{}").get("tokens_out", 0)
            wrong += [] if charged == said["usage"]["completion_tokens"] == length else [f"{charged} were charged"]
            count.trial(wrong)
    return count
