"""``feilun bill``: invoices, and what they really earned; its sub-commands are registered here.

A sub-command is a function of its own module, which imports nothing heavy before it is called.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from feilun.cli import (
    bill_books,
    bill_customer,
    bill_deliver,
    bill_events,
    bill_forecast,
    bill_margin,
    bill_product,
    bill_replay,
    bill_show,
)
from feilun.cli.options import HERE, Json, Root, open_wheel
from feilun.show import print_json, print_table, say

if TYPE_CHECKING:
    from feilun.bill.invoices import Invoice
    from feilun.bill.margin import Report
    from feilun.bill.verify import Verification


app = typer.Typer(help="Invoices, credits, and what they really earned.", invoke_without_command=True)
app.command("close")(bill_books.close)
app.command("verify")(bill_books.verify)
app.command("note")(bill_books.note)
app.command("credit")(bill_customer.credit)
app.command("coupon")(bill_customer.coupon)
app.command("profile")(bill_customer.profile)
app.command("plan")(bill_customer.plan)
app.command("deliver")(bill_deliver.deliver)
app.command("outbox")(bill_deliver.outbox)
app.command("payments")(bill_deliver.payments)
app.command("show")(bill_show.show)
app.add_typer(bill_events.app, name="events")
app.command("forecast")(bill_forecast.forecast)
app.command("margin")(bill_margin.margin)
app.command("replay")(bill_replay.replay)
app.add_typer(bill_product.app, name="product")


@app.callback()
def bill(
    context: typer.Context,
    tenant: Annotated[str | None, typer.Option(help="Only this customer.")] = None,
    period: Annotated[str | None, typer.Option(help="A month, UTC: 2026-11. This one by default.")] = None,
    close: Annotated[bool, typer.Option("--close", help="Close the invoices: their bytes never change again.")] = False,
    now: Annotated[bool, typer.Option("--now", help="With --close: a month that still runs, up to now.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write PDF, HTML, CSV and JSON of each into this folder.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Check the ledger: chain, postings, invoices.")] = False,
    project: Root = HERE,
    json: Json = False,
) -> None:
    """Invoices of a month (drafts, unless --close), and beside them what they cost and what is left."""
    if context.invoked_subcommand is not None:
        return
    with open_wheel(project) as wheel:
        invoices = wheel.bill(period, tenant=tenant, close=close, now=now)
        checked = wheel.verify() if verify or close else None
        margins = wheel.margin(period or wheel.period)
        settings = wheel.bill_settings
        written = bill_show.write(wheel.database, invoices, out) if out else []
    if json:
        document: dict[str, Any] = {"invoices": [i.as_dict() for i in invoices], "margin": margins.as_dict()}
        if checked is not None:
            document["verification"] = checked.as_dict()
        print_json(document)
    else:
        _show(invoices, margins, checked)
        bill_books.say_notes(invoices, settings)
        for file in written:
            say(f"  wrote {file}")
    if checked is not None and not checked.holds:
        raise typer.Exit(4)


def _show(invoices: list[Invoice], margins: Report, checked: Verification | None) -> None:
    from feilun.store.money import format_money

    for invoice in invoices:
        rows = [
            [line.id, line.description, line.arithmetic, format_money(line.amount_nano, invoice.currency)]
            for line in invoice.lines
        ]
        print_table(
            f"{invoice.number}  {invoice.tenant}  {invoice.period}  total {invoice.total}",
            ["line", "for", "arithmetic", "amount"],
            rows,
        )
    bill_margin.show(margins)
    if checked is not None:
        say(
            "  the ledger agrees with itself" if checked.holds else "  [red]the ledger does not agree with itself[/red]"
        )
        for problem in checked.problems:
            say(f"  {problem}")
