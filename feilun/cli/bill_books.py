"""``feilun bill close``, ``verify`` and ``note``: what is written into the books, and whether they agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from feilun.cli.options import HERE, Json, Root, open_wheel
from feilun.show import print_json, print_table, say

if TYPE_CHECKING:
    from feilun.bill.invoice import Invoice
    from feilun.bill.settings import BillSettings
    from feilun.bill.verify import Verification
    from feilun.flywheel import Flywheel

BROKEN = 4  # exit code where the books do not agree


def close(
    tenant: Annotated[str | None, typer.Option(help="Only this customer.")] = None,
    period: Annotated[str | None, typer.Option(help="A month, UTC: 2026-11. The last one that ended.")] = None,
    now: Annotated[bool, typer.Option("--now", help="What still runs (by default this month), up to now.")] = False,
    project: Root = HERE,
    json: Json = False,
) -> None:
    """Close the invoices of a month: their bytes never change again. Nothing is closed where the books do not agree."""
    with open_wheel(project) as wheel:
        chosen = period or (wheel.period if now else _before(wheel))
        made = wheel.bill(chosen, tenant=tenant, close=True, now=now)
        settings = wheel.bill_settings
    closed = [invoice for invoice in made if invoice.number != "DRAFT"]
    if json:
        print_json({"period": chosen, "invoices": [invoice.as_dict() for invoice in closed]})
        return
    rows = [[i.number, i.tenant, "interim" if i.interim else i.state, len(i.lines), i.total] for i in closed]
    print_table(f"invoices of {chosen}", ["number", "customer", "state", "lines", "total"], rows)
    say_notes(closed, settings)


def say_notes(invoices: Sequence[Invoice], settings: BillSettings) -> None:
    """What is still to come on invoices of a month that runs, and whose country would decide the tax."""
    from feilun.bill import form, tax

    newest = {(i.tenant, i.currency): i for i in invoices}
    for one in newest.values():
        if one.to_come:
            say(f"  {one.number} {one.tenant}: {form.to_come(one)}")
    if told := tax.without_country(invoices, settings):
        say(f"  {told}")


def verify(
    seal: Annotated[str | None, typer.Option(help="A seal noted earlier, NUMBER:HASH: is it still there?")] = None,
    project: Root = HERE,
    json: Json = False,
) -> None:
    """Check the books: hash chains, postings, every period rated again, credits, credit notes, and Stripe's totals."""
    with open_wheel(project) as wheel:
        checked = wheel.verify(compare=True, seal=seal)
    if json:
        print_json(checked.as_dict())
    else:
        say(f"  {checked.rows:,} usage rows, {checked.events:,} events, {checked.invoices:,} invoices")
        show_problems(checked)
        say(f"  newest seal {checked.seal} (note it elsewhere: it proves that nothing before it was removed)")
    if not checked.holds:
        raise typer.Exit(BROKEN)


def show_problems(checked: Verification) -> None:
    """Whether the books agree, and each thing that does not."""
    say("  the ledger agrees with itself" if checked.holds else "  [red]the ledger does not agree with itself[/red]")
    for problem in checked.problems:
        say(f"  {problem}")


def note(
    number: Annotated[str, typer.Argument(help="The invoice to take back: INV-000001.")],
    line: Annotated[list[str] | None, typer.Option(help="Only this line of it (may be repeated).")] = None,
    reason: Annotated[str, typer.Option(help="Why, as the credit note says it.")] = "",
    project: Root = HERE,
    json: Json = False,
) -> None:
    """Take an invoice back, or lines of it, by a credit note with a number of its own."""
    from feilun.bill import credit_notes

    with open_wheel(project) as wheel:
        chosen = credit_notes.reason_of(reason)
        made = credit_notes.issue(wheel.database, number, wheel.bill_settings, lines=line or None, reason=chosen)
    if json:
        print_json(made.as_dict())
        return
    from feilun.store.money import format_money

    rows = [[each.id, each.description, format_money(each.amount_nano, made.currency)] for each in made.lines]
    back = format_money(-made.total_nano, made.currency)
    print_table(f"{made.number} takes back {back} of {made.corrects}", ["line", "what", "amount"], rows)
    if made.credits_nano:
        say(f"  {format_money(made.credits_nano, made.currency)} is prepaid credit of {made.tenant} again")
    say(f"  {format_money(-made.due_nano, made.currency)} is to be paid back or set off")


def _before(wheel: Flywheel) -> str:
    from feilun.store.periods import bounds, period_of

    return period_of(bounds(wheel.period)[0] - 1)
