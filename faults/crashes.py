"""kill -9 of the gateway: at random instants, at named points, and several on one database (cases 1, 2, 13)."""

from __future__ import annotations

import itertools
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sqlalchemy import Connection, select, update

from faults import checks
from faults.counting import Count, Setup, case
from faults.house import House, Running, gateway, start, wait_until_ready
from faults.load import Clients, Posted, until
from feilun.serve.crash import POINTS
from feilun.store import outbox, tables
from feilun.store.crash import VARIABLE
from tests.receiver import listening

CLIENTS = 32
IMPATIENT = 4  # of them: these give up at the first broken connection
A_ROUND = 25  # kills on one database before everything is checked
LEASE: dict[str, Any] = {"lease_s": 1.0}
TENANTS = {"globex": "starter", "initech": "metered"}


_CROWDS = itertools.count()


@dataclass
class Fleet:
    """Gateways on one database, and where clients find them."""

    house: House
    options: dict[str, Any] = field(default_factory=dict)
    running: list[Running] = field(default_factory=list)
    bases: list[str] = field(default_factory=list)

    def grow(self, environment: dict[str, str] | None = None, *, wait: bool = True) -> Running:
        """One more."""
        one = start(self.house, environment=environment, wait=wait, **LEASE, **self.options)
        self.running.append(one)
        self.bases.append(one.base)
        return one

    def bury(self, one: Running) -> None:
        """kill -9, where it still lives; clients learn of it afterwards."""
        one.kill()
        self.running.remove(one)
        self.bases.remove(one.base)


@contextmanager
def fleet(house: House, size: int, **options: Any) -> Iterator[Fleet]:
    """``size`` gateways, killed at the end."""
    made = Fleet(house, options)
    try:
        for _ in range(size):
            made.grow(wait=False)
        for one in made.running:
            wait_until_ready(one)
        yield made
    finally:
        for one in list(made.running):
            made.bury(one)


@contextmanager
def crowd(house: House, bases: list[str], seed: int) -> Iterator[list[Clients]]:
    """32 clients of three tenants at work, some of them without patience; what they gave up is asked for at the end."""
    for name, plan in TENANTS.items():
        if name not in house.tokens:
            house.tenant(name, plan=plan)
    tokens = list(house.tokens.values())
    number = next(_CROWDS)  # no two crowds of a house may use the same idempotency keys
    patient = Clients(bases, tokens, prefix=f"crowd-{number}")
    impatient = Clients(bases, tokens, retry=False, prefix=f"impatient-{number}")
    with patient.at_work(CLIENTS - IMPATIENT, seed), impatient.at_work(IMPATIENT, seed + CLIENTS):
        yield [patient, impatient]
    impatient.ask_again()


def random_round(house: House, kills: int, seed: int, **options: Any) -> tuple[list[str], int]:
    """``kills`` of gateways in turn while two others live; what is broken, and how many answers were read."""
    chance = random.Random(seed)
    with fleet(house, 3, **options) as gateways:
        posted, changes = Posted(house.database), list[str]()
        with crowd(house, gateways.bases, seed) as crowds:
            for number in range(kills):
                time.sleep(chance.uniform(0.0, 0.3))
                gateways.bury(chance.choice(gateways.running))
                newest = gateways.grow(wait=False)
                if chance.random() < 0.1:  # a death while it starts
                    time.sleep(chance.uniform(0.0, 0.15))
                    gateways.bury(newest)
                    newest = gateways.grow(wait=False)
                wait_until_ready(newest)
                if number % 5 == 0:
                    changes += posted.changed()
        changes += posted.changed()
        return _after(house, crowds, changes)


def point_round(house: House, point: str, kills: int, seed: int) -> tuple[list[str], int]:
    """``kills`` of a gateway at its n-th passage through ``point``, while another lives."""
    chance = random.Random(seed)
    with fleet(house, 1) as gateways:
        posted, changes = Posted(house.database), list[str]()
        with crowd(house, gateways.bases, seed) as crowds:
            for _ in range(kills):
                doomed = gateways.grow({VARIABLE: f"{point}:{chance.randint(1, 12)}"})
                if doomed.process.wait(30) != -9:
                    changes.append(f"a gateway ended otherwise than by the crash point {point}")
                gateways.bury(doomed)
        changes += posted.changed()
        return _after(house, crowds, changes)


def _after(house: House, crowds: list[Clients], changes: list[str]) -> tuple[list[str], int]:
    """What is broken, and how many answers were read."""
    lost = [f"{crowds[0].lost} patient clients were never answered"] if crowds[0].lost else []
    return changes + checks.everything(house, *crowds) + lost, sum(len(c.answers) for c in crowds)


@case(1, "kill -9 of the gateway at random instants under 32 clients")
def random_kills(setup: Setup) -> Count:
    """Rounds of kills, each on a database of its own; then the planted bugs, with the same checks."""
    count, answers = Count(), 0
    left = setup.kills
    while left > 0:
        kills = min(A_ROUND, left)
        with setup.house() as house:
            broken, answered = random_round(house, kills, setup.seed + left)
        count.trial(broken, kills)
        answers += answered
        left -= kills
    count.notes.append(f"{answers} answers were read; a kill may also fall into a gateway's start")
    for bug, words in CONTROLS.items():
        with setup.house() as house:
            broken, _ = random_round(house, 6, setup.seed, planted=bug)
        count.controls[bug] = any(words in b for b in broken)
    return count


CONTROLS = {
    "commit-after-the-answer": "is not posted",
    "lost-hold": "holds",
    "mispriced-row": "I5",
}


@case(2, "kill -9 of the gateway at each named crash point under 32 clients")
def named_kills(setup: Setup) -> Count:
    """A share of the kills for each point that requests pass."""
    count = Count()
    each = max(2, setup.kills // 20)
    for number, point in enumerate(POINTS):
        with setup.house() as house:
            broken, answers = point_round(house, point, each, setup.seed + number)
        count.trial([f"{point}: {b}" for b in broken], each)
        count.notes.append(f"{point}: {each} kills, {answers} answers")
    with setup.house() as house:
        count.trial([f"outbox-send: {b}" for b in outbox_kills(house, each)], each)
    count.notes.append(f"outbox-send: {each} kills")
    return count


def outbox_kills(house: House, kills: int) -> list[str]:
    """The gateway dies behind sending a webhook, and the next one sends it again under the same id."""
    secret = {"FEILUN_WEBHOOK_SECRET": "a secret of twenty-four bytes, or more"}
    with listening() as receiver:
        bill = {"webhook": {"url": receiver.url, "allow_private": True}}
        broken = []
        for number in range(kills):
            with gateway(house, bill=bill, environment=secret | {VARIABLE: "outbox-send"}) as dying:
                house.database.write(partial(_put, number=number))
                code = dying.process.wait(20)
                broken += [] if code == -signal.SIGKILL else [f"a gateway ended with {code}"]
            house.database.write(lambda c: c.execute(update(tables.outbox).values(due_at=0)) and None)
        with gateway(house, bill=bill, environment=secret):
            until(lambda: not _waiting(house), 20)
        bodies = {(headers["webhook-id"], body) for headers, body in receiver.got}
    return broken + ([] if len(bodies) == kills else [f"{len(bodies)} different webhooks came of {kills}"])


def _put(connection: Connection, number: int) -> None:
    payload = {"type": "budget.warning", "data": {"tenant": "acme", "number": number}}
    outbox.put(connection, kind="webhook", id=f"row-{number}", subject="acme", payload=payload)


def _waiting(house: House) -> bool:
    with house.database.read() as connection:
        rows = connection.execute(select(tables.outbox.c.id).where(tables.outbox.c.delivered_at.is_(None)))
        return rows.first() is not None


@case(13, "two and four gateways on one database under 32 clients: no 500, nothing lost or doubled")
def together(setup: Setup) -> Count:
    """Each answered request is a trial."""
    count = Count()
    for size in (2, 4):
        with setup.house() as house, fleet(house, size) as gateways:
            with crowd(house, gateways.bases, setup.seed + size) as crowds:
                time.sleep(setup.times(20, 4))
            logs = "".join(one.log.read_text() for one in gateways.running)
            broken = checks.everything(house, *crowds)
            broken += ["a gateway met something unexpected"] if '"unexpected"' in logs else []
            count.trial(broken, sum(len(c.answers) for c in crowds))
            refused = sum((c.refused for c in crowds), start=type(crowds[0].refused)())
            count.notes.append(f"{size} gateways: refused {dict(refused)}")
    return count
