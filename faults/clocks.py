"""The clock jumps, and months end (cases 9, 10)."""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from sqlalchemy import select

from faults import checks, postgres
from faults.counting import Count, Setup, case, not_tried
from faults.crashes import Fleet, crowd, fleet
from faults.house import BILL, House, ask
from faults.nursery import Nursery
from faults.outages import answered_since
from faults.shim import Shim, compiler
from feilun.bill import invoices
from feilun.bill.verify import verify
from feilun.errors import ConflictError, DataError
from feilun.store import ledger, tables
from feilun.store.crash import VARIABLE
from feilun.store.database import Database
from feilun.store.periods import period_of

SECOND = 10**6
HOUR = 3600 * SECOND
ZONE = "Europe/Berlin"  # that of the gateways: its summer time begins and ends at 01:00 UTC
MOMENTS = {
    "midnight": "2027-01-16 00:00",
    "summer time begins": "2027-03-28 01:00",
    "summer time ends": "2027-10-31 01:00",
    "month's end": "2027-05-01 00:00",
    "year's end": "2028-01-01 00:00",
    "leap day begins": "2028-02-29 00:00",
    "leap day ends": "2028-03-01 00:00",
}


@contextmanager
def clocked(setup: Setup, shim: Shim) -> Iterator[Setup]:
    """Gateways (SQLite) or PostgreSQL live by the shim's clock. Its gateways are five days ahead: no matter."""
    zone = {"TZ": ZONE}
    if setup.database == "sqlite":
        with Nursery({**shim.environment, **zone}) as nursery:
            yield replace(setup, nursery=nursery)
        return
    with tempfile.TemporaryDirectory(prefix="faults-ahead-") as folder:
        ahead = Shim(Path(folder))
        ahead.shift_clock(5 * 24 * HOUR)
        with Nursery({**ahead.environment, **zone}) as nursery, postgres.server(environment=shim.environment) as server:
            yield replace(setup, nursery=nursery, server=server)


@case(9, "the clock jumps or passes midnight, summer time, a leap day, a month's end: the database's time decides")
def clocks(setup: Setup) -> Count:
    """Each jump and each moment passed under load is a trial."""
    if compiler() is None:
        return not_tried("there is no C compiler for the library that shifts the clock")
    count = Count()
    with tempfile.TemporaryDirectory(prefix="faults-shim-") as folder:
        shim = Shim(Path(folder))
        with clocked(setup, shim) as inside:
            for _ in range(setup.times(3, 1)):
                for name, moment in MOMENTS.items():
                    count.trial([f"{name}: {words}" for words in _pass(inside, shim, moment)])
                for hours in (2, -2):
                    count.trial([f"{hours:+d} h: {words}" for words in _jump(inside, shim, hours)])
                for hours in (2, -2):
                    count.trial(
                        [f"{hours:+d} h with a dead holder: {words}" for words in _abandon(inside, shim, hours)]
                    )
            if setup.database == "postgresql":  # SQLite's clock is the gateway's own
                late = _pass(inside, shim, MOMENTS["midnight"], planted="own-clock")
                count.controls["own-clock"] = any("us off" in words for words in late)
    return count


def _pass(setup: Setup, shim: Shim, moment: str, **options: Any) -> list[str]:
    wanted = int(datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp()) * SECOND
    shim.shift_clock(0)
    with setup.house() as house, fleet(house, 2, **options) as gateways:
        shim.shift_clock(wanted - time.time_ns() // 1000 - int(1.5 * SECOND))
        with crowd(house, gateways.bases, setup.seed) as crowds:
            time.sleep(3.5)
        shim.shift_clock(0)
        rows = _rows(house)
        before = [row for row in rows if row.at < wanted]
        broken = checks.everything(house, *crowds) + _order(rows)
        broken += [] if before and len(before) < len(rows) else [f"{len(before)} of {len(rows)} rows were before it"]
        broken += [f"{row.request} is {row.at - wanted} us off" for row in rows if abs(row.at - wanted) > 60 * SECOND]
        return broken + _counted(house, rows)


def _jump(setup: Setup, shim: Shim, hours: int) -> list[str]:
    shim.shift_clock(0)
    with setup.house() as house, fleet(house, 2) as gateways:
        with crowd(house, gateways.bases, setup.seed) as crowds:
            time.sleep(1.0)
            shim.shift_clock(hours * HOUR)
            flows = answered_since(crowds, sum(len(c.answers) for c in crowds), 5.0)
            shim.shift_clock(0)
            again = answered_since(crowds, sum(len(c.answers) for c in crowds), 5.0)
        rows = _rows(house)
        broken = checks.everything(house, *crowds) + _order(rows) + _counted(house, rows)
        return broken + ([] if flows and again else ["answers stopped"])


def _abandon(setup: Setup, shim: Shim, hours: int) -> list[str]:
    """A holder dies, then the clock jumps: its key must not stay taken for longer than its lease of a second."""
    shim.shift_clock(0)
    with setup.house() as house, fleet(house, 1) as gateways:
        alive = gateways.running[0]
        token, key = house.tokens["acme"], {"Idempotency-Key": "mine"}
        ask(alive, token)
        _die_after_hold(gateways, token, key)
        shim.shift_clock(hours * HOUR)
        begun, status = time.monotonic(), 0
        while status != 200 and time.monotonic() - begun < 8:
            status = ask(alive, token, headers=dict(key)).status_code
            time.sleep(0.1)
        shim.shift_clock(0)
        broken = [f"I5: {problem}" for problem in verify(house.database).problems]
        return broken + ([] if status == 200 else [f"8 s later its key was still refused with {status}"])


def _die_after_hold(gateways: Fleet, token: str, key: dict[str, str]) -> None:
    doomed = gateways.grow({VARIABLE: "after-hold"})
    with contextlib.suppress(Exception):
        ask(doomed, token, headers=dict(key))
    doomed.process.wait(10)
    gateways.bury(doomed)


def _rows(house: House) -> list[Any]:
    usage = tables.usage.c
    with house.database.read() as connection:
        query = select(usage.request, usage.tenant, usage.sequence, usage.at).order_by(usage.tenant, usage.sequence)
        return list(connection.execute(query).all())


def _order(rows: list[Any]) -> list[str]:
    return [
        f"{b.request} is earlier than {a.request}" for a, b in pairwise(rows) if a.tenant == b.tenant and b.at < a.at
    ]


def _counted(house: House, rows: list[Any]) -> list[str]:
    """What each month is said to have, against the rows that are in it by the database's time."""
    with house.database.read() as connection:
        said = {(r.tenant, r.period): r.requests for r in connection.execute(select(tables.counters)).all()}
    found: dict[tuple[str, str], int] = {}
    for row in rows:
        place = (row.tenant, period_of(row.at))
        found[place] = found.get(place, 0) + 1
    return [] if said == found else [f"months: counted {said}, there are {found}"]


@case(10, "invoices closed while rows come in: each row in exactly one, closed bytes never change")
def closing(setup: Setup) -> Count:
    """Each closing in mid-load is a trial; at the end the invoices must tile every tenant's rows."""
    count = Count()
    with setup.house() as house, fleet(house, 2) as gateways:
        closed: dict[str, str] = {}
        with crowd(house, gateways.bases, setup.seed) as crowds:
            period = _period(house.database)
            for _ in range(setup.times(50, 8)):
                time.sleep(0.1)
                count.trial(_close(house, period, closed))
        _close(house, period, closed)
        wrong = checks.everything(house, *crowds) + _tiles(house)
    if wrong:
        count.survived, count.failures = 0, wrong[:20]
    return count


def _period(database: Database) -> str:
    with database.read() as connection:
        return ledger.month(connection, "acme")[0]


def _close(house: House, period: str, closed: dict[str, str]) -> list[str]:
    """Close what there is, by two at once, and compare the bytes of all that were closed before."""
    problems: list[str] = []

    def close() -> None:
        for tenant in house.tokens:
            try:
                invoices.close(house.database, tenant, period, BILL, interim=True)
            except DataError:
                pass
            except ConflictError as error:
                if error.name != "ledger-is-busy":
                    problems.append(f"{tenant}: {error}")

    together = [threading.Thread(target=close) for _ in range(2)]
    for one in together:
        one.start()
    for one in together:
        one.join()
    with house.database.read() as connection:
        now = dict(connection.execute(select(tables.invoices.c.number, tables.invoices.c.body)).all())
    problems += [f"{number} was changed" for number, body in closed.items() if now.get(number) != body]
    closed.update(now)
    return problems


def _tiles(house: House) -> list[str]:
    table = tables.invoices.c
    with house.database.read() as connection:
        spans = connection.execute(
            select(table.tenant, table.first_sequence, table.last_sequence).order_by(table.tenant, table.first_sequence)
        ).all()
        newest = dict(connection.execute(select(tables.chains.c.tenant, tables.chains.c.sequence)).all())
    broken, following = [], dict.fromkeys(newest, 1)
    for tenant, first, last in spans:
        if last < first:
            continue
        broken += [] if first == following[tenant] else [f"an invoice of {tenant} begins at {first}"]
        following[tenant] = last + 1
    return broken + [f"{t}: rows from {n} are in none" for t, n in following.items() if n <= newest[t]]
