"""``feilun bill deliver``, ``outbox`` and ``payments``: what goes out, and what Stripe told of it."""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from feilun.cli.options import HERE, Json, Root, open_wheel
from feilun.show import print_json, print_table, say

if TYPE_CHECKING:
    from feilun.flywheel import Flywheel
    from feilun.store.outbox import Row

Watch = Annotated[bool, typer.Option("--watch", help="Go on until Ctrl-C, as a running gateway does.")]


def deliver(watch: Watch = False, project: Root = HERE, json: Json = False) -> None:
    """Send what the outbox has due: webhooks, and customers and invoices to Stripe. A running gateway does so too."""
    from feilun.errors import UnavailableError

    with open_wheel(project) as wheel:
        office = wheel.office()
        arrived = 0
        try:
            while True:
                try:
                    sent = office.deliver()
                except UnavailableError:
                    if not watch:
                        raise
                    sent = 0  # the database is away; it comes back
                arrived += sent
                if sent and not json:
                    say(f"  delivered {sent}")
                if not watch and not sent:
                    break
                if watch and not sent:
                    time.sleep(1)
        except KeyboardInterrupt:
            say("  stopped")
        _report(wheel, arrived, json)


def outbox(
    again: Annotated[str | None, typer.Option(help="Let this dead letter go out again: its id, or 'all'.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Also what was delivered.")] = False,
    project: Root = HERE,
    json: Json = False,
) -> None:
    """What waits to go out, what was given up, and why."""
    from feilun.errors import AccessError
    from feilun.store import outbox as box

    with open_wheel(project) as wheel:
        if again is not None:
            with wheel.database.read() as connection:
                dead = [row.id for row in box.rows(connection, "dead")]
            chosen = [id for id in dead if again == "all" or id.startswith(again)]
            if not chosen and again != "all":
                hint = "list them with: feilun bill outbox"
                raise AccessError(f"there is no dead letter '{again}'", status=404, hint=hint, code="not-found")
            for id in chosen:
                wheel.database.write(partial(box.revive, id=id))
        with wheel.database.read() as connection:
            rows = [row for row in box.rows(connection) if every or row.state != "delivered"]
            counted = box.count(connection)
    if json:
        print_json({"counts": counted, "rows": [asdict(row) for row in rows]})
        return
    _table(rows)
    say(", ".join(f"{n} {state}" for state, n in counted.items()))


def payments(project: Root = HERE, json: Json = False) -> None:
    """What Stripe told of each invoice: open, failed, uncollectible, void or paid."""
    from feilun.bill.stripe_inbox import payment_states

    with open_wheel(project) as wheel, wheel.database.read() as connection:
        states = payment_states(connection)
    if json:
        print_json({"payments": states})
    else:
        print_table("payments", ["invoice", "state"], [[number, state] for number, state in states.items()])


def _report(wheel: Flywheel, arrived: int, json: bool) -> None:
    from feilun.store import outbox as box

    with wheel.database.read() as connection:
        counted = box.count(connection)
    if json:
        print_json({"delivered": arrived, "counts": counted})
    else:
        say(f"  {arrived} delivered, {counted['waiting']} waiting, {counted['dead']} given up")


def _table(rows: list[Row]) -> None:
    shown = [[r.id[:16], r.kind, r.subject, r.state, str(r.attempts), _time(r.due_at), r.failure or ""] for r in rows]
    print_table("outbox", ["id", "kind", "subject", "state", "attempts", "due", "last failure"], shown)


def _time(at: int) -> str:
    return f"{datetime.fromtimestamp(at // 10**6, UTC):%Y-%m-%d %H:%M:%S}Z"
