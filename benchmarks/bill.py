"""What billing promises, measured: usage recorded a second, staying so, and what a month's invoices take.

``python -m benchmarks.bill [--quick] [FIGURE...]``; see benchmarks/bench.py for what is written.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

from benchmarks.allocation import allocation as allocation_closes
from benchmarks.bench import Bench, Row, Run, row
from benchmarks.metering import metering as metering_cost
from benchmarks.reporting import BATCH, Reports, body, gateway, record, send
from feilun.accounts import tenants
from feilun.bill import invoices
from feilun.bill.settings import BillSettings
from feilun.store import event_audit, events
from feilun.store.database import Database
from feilun.store.events import Event
from feilun.store.migrations import open_database
from feilun.store.money import round_to_minor

bench = Bench("bill")
KINDS = ("sqlite", "postgresql")
TARGET = {"sqlite": 20_000, "postgresql": 10_000}  # events recorded a second, durable, each once
MONTH_S = 60  # a month's invoices for 1,000 tenants
SIZES = (100_000, 300_000, 1_000_000, 3_000_000, 10_000_000)
QUICK_SIZES = (2_000, 4_000, 8_000)
GROUP = 10  # calls at once, in process
CLIENTS = 8  # connections at once, over HTTP
PRICE_NANO = 1_234  # of a page: a millionth of a unit of money, about
SETTINGS = BillSettings.model_validate(
    {
        "meters": {
            "pages": {"unit": "page"},
            "seconds": {"unit": "call", "aggregate": "count"},
            "stored": {"unit": "GB", "aggregate": "latest"},
        },
        "plans": {
            "metered": {
                "monthly": "19.00 USD",
                "included": {"pages": 10_000},
                "overage": {"pages": "0.000001234 USD", "stored": "0.02 USD"},
                "tiers": {"seconds": {"steps": [{"up_to": 1_000, "price": "0.001 USD"}, {"price": "0.0005 USD"}]}},
            },
            "exact": {"overage": {"pages": "0.000001234 USD"}},
        },
    }
)


@bench.figure("ingest")
def ingest(run: Run) -> Iterator[Row]:
    """Over HTTP, in batches of 1,000, into an empty database: durable, and each event once."""
    for kind in KINDS:
        rates = []
        for _ in range(run.size(5, 1)):
            with run.database(kind) as url, gateway(url, run.folder) as (port, token):
                with open_database(url) as database:
                    reports = Reports(database, run.size(1_000, 10))
                bodies = [body(reports.batch()) for _ in range(run.size(300, 2 * CLIENTS))]
                send(port, token, bodies[:CLIENTS], CLIENTS)  # to warm up
                rates.append(BATCH * (len(bodies) - CLIENTS) / send(port, token, bodies[CLIENTS:], CLIENTS))
        what = f"events a second over HTTP into {kind}, batches of {BATCH:,}, {CLIENTS} connections"
        yield row(f"ingest-{kind}", what, "events/s", rates, target=TARGET[kind])


@bench.figure("growth-sqlite")
def growth_sqlite(run: Run) -> Iterator[Row]:
    """See ``_growth``."""
    yield from _growth(run, "sqlite")


@bench.figure("growth-postgresql")
def growth_postgresql(run: Run) -> Iterator[Row]:
    """See ``_growth``."""
    yield from _growth(run, "postgresql")


def _growth(run: Run, kind: str) -> Iterator[Row]:
    """In process, from nothing to ten million events; then a month's invoices of all of them, and the proof."""
    sizes = QUICK_SIZES if run.quick else SIZES
    with run.database(kind) as url, open_database(url) as database:
        reports = Reports(database, run.size(1_000, 10))
        points, speeds = [], []
        done, seconds = 0, 0.0
        for size in sizes:
            parts = []
            while done < size:
                batches = [reports.batch() for _ in range(min(GROUP, math.ceil((size - done) / BATCH)))]
                parts.append((sum(map(len, batches)), record(database, batches)))
                done, seconds = done + parts[-1][0], seconds + parts[-1][1]
            last = parts[-max(1, len(parts) // 4) :]
            speeds.append(sum(n for n, _ in last) / sum(s for _, s in last))
            points.append((float(done), seconds))
        run.curve("seconds by events recorded", kind, points)
        run.curve("events a second by events there", kind, list(zip(map(float, sizes), speeds, strict=True)))
        span = f"from {sizes[0]:,} to {sizes[-1]:,} events"
        slope = math.log(points[-1][1] / points[0][1]) / math.log(points[-1][0] / points[0][0])
        yield row(f"growth-{kind}-exponent", f"seconds grow as events to this power, {span}", "", [slope])
        what = f"events a second in process, the last of {sizes[-1]:,}, ids in order (UUIDv7)"
        yield row(f"growth-{kind}-last", what, "events/s", speeds[-1:], target=TARGET[kind])
        yield _month(run, kind, database, reports)
        with database.read() as connection:
            begun = time.perf_counter()
            assert event_audit.verify(connection) == []
        yield row(f"growth-{kind}-verify", f"proving {sizes[-1]:,} events", "s", [time.perf_counter() - begun])
        reports.ordered = False
        rates = []
        for _ in range(run.size(20, 1)):
            batches = [reports.batch() for _ in range(GROUP)]
            rates.append(GROUP * BATCH / record(database, batches))
        what = f"the same on top of {sizes[-1]:,}, ids at random (UUIDv4)"
        yield row(f"growth-{kind}-random", what, "events/s", rates)


def _month(run: Run, kind: str, database: Database, reports: Reports) -> Row:
    """Close the month for every tenant."""
    begun = time.perf_counter()
    closed = invoices.close_all(database, reports.period, SETTINGS)
    taken = time.perf_counter() - begun
    with database.read() as connection:
        counted = sum(events.newest(connection, name) for name in reports.tenants)
    assert len(closed) == len(reports.tenants)
    assert sum((invoice.last_event or 0) for invoice in closed) == counted
    what = f"a month's invoices for {len(closed):,} tenants from {counted:,} events"
    return row(f"month-{kind}", what, "s", [taken], target=MONTH_S, at_most=True)


@bench.figure("sub-cent")
def sub_cent(run: Run) -> Iterator[Row]:
    """A million events of less than a cent each: the line is their exact sum, rounded once (case 21)."""
    count = run.size(1_000_000, 3_000)
    for kind in KINDS:
        with run.database(kind) as url, open_database(url) as database:
            reports = Reports(database, 1)
            tenant, units = "exact", 0
            tenants.create(database, tenant, plan="exact")
            for first in range(0, count, GROUP * BATCH):
                numbers = range(first, min(count, first + GROUP * BATCH))
                made = [Event(tenant, "pages", "/exact", f"{n:08d}", n % 7, reports.begins + n) for n in numbers]
                units += sum(event.units for event in made)
                record(database, [made[at : at + BATCH] for at in range(0, len(made), BATCH)])
            invoice = invoices.close(database, tenant, reports.period, SETTINGS)
            exact = sum(line.exact_nano for line in invoice.lines)
            off = abs(exact - units * PRICE_NANO) + abs(invoice.total_nano - round_to_minor(units * PRICE_NANO, "USD"))
        what = f"nano-units that an invoice of {count:,} events is off, {kind}"
        yield row(f"sub-cent-{kind}", what, "nano", [float(off)], target=0, at_most=True)


@bench.figure("metering")
def metering(run: Run) -> Iterator[Row]:
    """The same gateway with metering and without, MiniLM in 8 bits, 64 clients; 1 and 2 sentences in a request."""
    for kind in KINDS:
        for inputs in (1, 2):
            with run.database(kind) as url:
                cost = metering_cost(url, rounds=run.size(6, 1), seconds=run.size(5, 2), clients=64, inputs=inputs)
            one = f"{inputs} sentence{'s' if inputs > 1 else ''} in a request"
            what = f"throughput that metering takes, {one}, {kind}"
            yield row(f"metering-{kind}-{inputs}", what, "of 1", cost.lost, target=0.05, at_most=True)
            peer = ("the same gateway without metering", cost.free)
            yield row(
                f"metering-{kind}-{inputs}-rate", f"requests a second, {one}, {kind}", "1/s", cost.metered, peer=peer
            )


@bench.figure("allocation")
def allocation(run: Run) -> Iterator[Row]:
    """What requests, overhead, loads and idle time are said to have taken, against the kernel's own account."""
    for kind in KINDS:
        with run.database(kind) as url:
            found = allocation_closes(run.size(20, 4), 16, url=url)
        what = f"requests + overhead + loads away from the processor time of the process, {kind}"
        yield row(f"allocation-{kind}", what, "of 1", [found["used_apart"]], target=0.01, at_most=True)
        what = f"with idle time, away from wall time x cores, {kind}"
        yield row(f"allocation-{kind}-idle", what, "of 1", [found["offered_apart"]], target=0.01, at_most=True)


if __name__ == "__main__":
    bench.main()
