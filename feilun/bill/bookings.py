"""An invoice in the books: accounts and amounts that sum to 0.

What was owed request by request (``tenant:T:receivable``, exact) becomes owed by invoice (``tenant:T:invoiced``, in
coins). Fees, events and taxes are booked with it, and what rounding makes of the exact amounts has its own account.
"""

from __future__ import annotations

from collections.abc import Iterable

from feilun.bill import tax
from feilun.bill.credits import prepaid
from feilun.bill.invoice import Invoice
from feilun.bill.rating import Line
from feilun.store.ledger import REVENUE, receivable

FEES = "revenue:fees"
EVENTS = "revenue:events"
DISCOUNTS = "revenue:discounts"
ROUNDING = "revenue:rounding"
_OF = {"fee": FEES, "unused": FEES, "minimum": FEES, "event": EVENTS, "gauge": EVENTS}
_OF |= {"trial": DISCOUNTS, "discount": DISCOUNTS}


def invoiced(tenant: str) -> str:
    """The account of what a tenant owes by invoice."""
    return f"tenant:{tenant}:invoiced"


def account(line: Line, tenant: str) -> str:
    """Where the income of a line, or what is paid with it, is booked."""
    if line.kind == "tax":
        return tax.account(str(line.words["country"]))
    return prepaid(tenant) if line.kind == "credit" else _OF.get(line.kind, REVENUE)


def booked(invoice: Invoice, stored_nano: int) -> dict[str, int]:
    """The postings of an invoice whose usage rows come to ``stored_nano``; accounts with 0 are left out."""
    sides = {invoiced(invoice.tenant): invoice.due_nano, receivable(invoice.tenant): -stored_nano}
    for line in invoice.lines:
        own = account(line, invoice.tenant)
        if own != REVENUE:  # of usage, revenue was booked with each request
            exact = line.exact_nano if own in (FEES, EVENTS) else line.amount_nano
            sides[own] = sides.get(own, 0) - exact
    sides[ROUNDING] = -sum(sides.values())
    return {name: nano for name, nano in sides.items() if nano}


def reversed_lines(tenant: str, lines: Iterable[Line]) -> dict[str, int]:
    """The postings of a credit note: its lines' amounts (below 0) are no longer owed, nor income, nor tax."""
    sides: dict[str, int] = {}
    for line in lines:
        for own, nano in ((invoiced(tenant), line.amount_nano), (account(line, tenant), -line.amount_nano)):
            sides[own] = sides.get(own, 0) + nano
    return {name: nano for name, nano in sides.items() if nano}
