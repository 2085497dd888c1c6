"""Releases that come and go while they are asked (case 38), and answers that are kept (case 56)."""

from __future__ import annotations

import itertools
import json
import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from faults.checks import wrong_answers
from faults.counting import Count, Setup, case
from faults.house import WORDS, House, Running, ask, make_release, start
from faults.load import broken_invariants
from feilun.errors import ConflictError
from feilun.pipeline.kinds import Release
from feilun.store import releases, rollouts

MODELS = 4
EVERY_S = 0.15  # how often something is changed


@dataclass
class Crowd:
    """Clients who ask for a name, for digests and for the canary, each one after the other."""

    gateways: Sequence[Running]
    token: str
    digests: Sequence[str]
    answers: list[dict[str, Any]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    refused: int = 0  # digests that were not loaded in time: told so, and not charged
    stop: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def at_work(self, count: int, seed: int) -> Iterator[None]:
        """Let ``count`` clients ask."""
        threads = [threading.Thread(target=self._work, args=(random.Random(seed + n), n)) for n in range(count)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stop.set()
            for thread in threads:
                thread.join()

    def _work(self, chance: random.Random, client: int) -> None:
        names = ["reviews", "reviews:canary", *(f"reviews@{digest[:12]}" for digest in self.digests)]
        with httpx.Client(timeout=30) as http:
            for turn in itertools.takewhile(lambda _: not self.stop.is_set(), itertools.count()):
                texts = [" ".join(chance.choices(WORDS, k=chance.randint(1, 8)))]
                self._ask(http, chance, Question(chance.choice(names), texts, f"{client}-{turn}"))
                time.sleep(0.01)

    def _ask(self, http: httpx.Client, chance: random.Random, question: Question) -> None:
        reply = http.post(
            chance.choice(self.gateways).base + "/v1/classify",
            json={"model": question.model, "input": question.texts},
            headers={"Authorization": f"Bearer {self.token}", "Idempotency-Key": question.key},
        )
        said = reply.json()
        if reply.status_code == 200:
            wanted = question.model.partition("@")[2]
            if not said["release"].startswith(wanted) or said["model"] != f"reviews@{said['release'][:12]}":
                self.broken.append(f"{question.model} was answered by {said['model']}")
            self.answers.append(said | {"key": question.key, "texts": question.texts, "token": self.token})
        elif "@" in question.model and said["error"]["code"] == "model-not-loaded":
            self.refused += 1
        elif (question.model, reply.status_code) != ("reviews:canary", 404):  # it may have been ended
            self.broken.append(f"{question.model} was refused: {said['error']['code']}")


@dataclass(frozen=True)
class Question:
    """What a client wants, and its idempotency key."""

    model: str
    texts: list[str]
    key: str


def keep_changing(house: House, made: Sequence[Release], chance: random.Random, seconds: float) -> int:
    """Promote, roll back, begin and end canaries and shadows; returns how often."""
    end, changes = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        digest = chance.choice(made).digest
        change = chance.choice(["promote", "promote", "rollback", "canary", "shadow", "end"])
        try:
            if change == "promote":
                now = releases.pointer(house.database, "reviews").version
                releases.promote(house.database, "reviews", digest, expected_version=now, reason="fault")
            elif change == "rollback":
                releases.rollback(house.database, "reviews")
            else:
                kind: rollouts.Kind = "shadow" if change == "shadow" else "canary"
                rollouts.change(
                    house.database,
                    kind,
                    "reviews",
                    None if change == "end" else digest,
                    share=0 if change == "end" else chance.choice([1_000, 5_000, 10_000]),
                    sticky="request",
                    expected_version=rollouts.version_of(house.database, kind, "reviews"),
                    reason="fault",
                )
            changes += 1
        except ConflictError:  # there was no way back yet
            pass
        time.sleep(EVERY_S)
    return changes


def swapped(setup: Setup, seconds: float, planted: str | None = None) -> tuple[Crowd, int, list[str]]:
    """Two gateways with memory for two releases of four, everything changed all the time, six clients."""
    with setup.house() as house:
        made = [house.release, *(make_release(house.store, house.folder, 40 + n) for n in range(MODELS - 1))]
        size = sum(file.stat().st_size for file in house.store.get(house.release.parents[0]).path.iterdir())
        options: dict[str, Any] = {"memory_mb": 2.5 * size / 10**6} | ({"planted": planted} if planted else {})
        gateways = [start(house, **options) for _ in range(2)]
        crowd = Crowd(gateways, house.tokens["acme"], [release.digest for release in made])
        try:
            with crowd.at_work(6, setup.seed):
                changes = keep_changing(house, made, random.Random(setup.seed), seconds)
        finally:
            for running in gateways:
                running.kill()
        found = crowd.broken + [
            f"{answer} is another release's answer" for answer in wrong_answers(house, crowd.answers)
        ]
        return crowd, changes, found + broken_invariants(house.database, crowd.answers)


@case(38, "releases, canaries and shadows changed all the time, memory for half of them: no answer from another")
def no_wrong_release(setup: Setup) -> Count:
    count = Count()
    crowd, changes, found = swapped(setup, setup.times(60, 5))
    count.trial(found, len(crowd.answers))
    count.notes.append(f"{changes} changes, {crowd.refused} digests not loaded in time")
    _, _, caught = swapped(setup, 4, "any-release")
    count.controls["any-release"] = any("was answered by" in sentence for sentence in caught)
    return count


def strangers_hits(house: House, running: Running, chance: random.Random, times: int) -> list[str]:
    """Answers that one tenant got from what was kept of another's."""
    one, other = house.tokens["acme"], house.tokens["globex"]
    fresh, found = {"Cache-Control": "max-age=600"}, []
    for n in range(times):
        texts = [f"{' '.join(chance.choices(WORDS, k=4))} {n}"]
        first, again = (ask(running, one, texts, headers=fresh) for _ in range(2))
        theirs = ask(running, other, texts, headers=fresh)
        if "x-cache" in first.headers or again.headers.get("x-cache") != "hit":
            found.append(f"{n}: the same tenant's answer was not kept as it should")
        if "x-cache" in theirs.headers or json.loads(theirs.content)["usage"].get("cached"):
            found.append(f"{n}: another tenant got it")
    return found


@case(56, "answers that are kept are given to their own tenant alone")
def kept_apart(setup: Setup) -> Count:
    count, times = Count(), setup.times(1_000, 50)
    for planted in (None, "one-cache-for-all"):
        with setup.house() as house:
            house.tenant("globex")
            running = start(house, **({"planted": planted} if planted else {}))
            try:
                found = strangers_hits(house, running, random.Random(setup.seed), 10 if planted else times)
            finally:
                running.kill()
            if planted:
                count.controls[planted] = any("another tenant" in sentence for sentence in found)
            else:
                count.trial(found, times)
    return count
