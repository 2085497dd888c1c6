"""What an invoice is: its fields, and the canonical JSON that is stored and never changes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from feilun.bill.rating import Line
from feilun.store.artifacts import canonical
from feilun.store.money import format_money

DRAFT = "DRAFT"


@dataclass(frozen=True)
class Invoice:
    """An invoice as it was closed, or a draft of it, or a credit note. ``body`` is the canonical JSON that is stored.

    It covers the tenant's usage rows ``first_sequence`` to ``last_sequence``, both included; none where the last is
    below the first. ``interim`` says that the month, or its grace time, still ran: later usage of the same month is on
    a later invoice. ``at`` and ``due_at`` are in microseconds since 1970, UTC.
    """

    number: str
    tenant: str
    period: str
    interim: bool
    currency: str
    total_nano: int
    first_sequence: int
    last_sequence: int
    at: int
    lines: tuple[Line, ...]
    body: str
    kind: str = "invoice"  # or credit_note
    state: str = "final"  # draft, grace or final
    buyer: Mapping[str, str] = field(default_factory=dict)  # name, address, country, tax_id, as they were then
    seller: Mapping[str, str] = field(default_factory=dict)
    due_at: int | None = None
    first_event: int | None = None  # of the tenant's events that it covers, both included: those of its period
    last_event: int | None = None  # and of earlier ones that no earlier invoice covers (see bill/events.py)
    credits_nano: int = 0  # sum of the credit lines, not above 0; ``total_nano`` is the sum of all others. Of a credit
    # note it is what is given back as credit, above 0, and ``due_nano`` what is to be paid back or set off, below 0.
    due_nano: int = 0
    aggregates: Mapping[str, str] = field(default_factory=dict)  # how meters were aggregated that are not summed
    partial: bool = False  # usage rows alone: the same currency has a later invoice, with fees and all else
    corrects: str | None = None  # of a credit note: the number of its invoice
    reason: str = ""  # of a credit note
    to_come: tuple[Mapping[str, str | int], ...] = ()  # of an interim one: what is charged when the month is over,
    # {"minimum_nano": ...} or {"meter": ...}; left out of the body where there is none

    @property
    def total(self) -> str:
        """The amount for people."""
        return format_money(self.total_nano, self.currency)

    def as_dict(self) -> dict[str, Any]:
        """What ``body`` says, as plain values."""
        return dict(json.loads(self.body))


def sealed(invoice: Invoice) -> Invoice:
    """With its lines numbered and summed, and the body that says all of it."""
    lines = tuple(replace(line, id=f"{invoice.number}/{i}") for i, line in enumerate(invoice.lines, start=1))
    total = sum(line.amount_nano for line in lines if line.kind != "credit")
    credits = sum(line.amount_nano for line in lines if line.kind == "credit")
    summed = replace(invoice, lines=lines, total_nano=total, credits_nano=credits, due_nano=total + credits)
    values = asdict(summed) | {"total": summed.total}
    del values["body"]
    if not summed.to_come:
        del values["to_come"]
    return replace(summed, body=canonical(values).decode())


def parse(body: str) -> Invoice:
    """An invoice from its stored JSON, also from before there were words, events and credits."""
    values = json.loads(body)
    lines = tuple(Line(**line) for line in values.pop("lines"))
    del values["total"]
    values.setdefault("due_nano", values["total_nano"])
    to_come = tuple(values.pop("to_come", ()))
    return Invoice(**values, lines=lines, to_come=to_come, body=body)
