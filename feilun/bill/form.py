"""An invoice or credit note as people read it: everything that is shown, in one language, before it has any layout.

The page (``render.py``) and the paper (``pdf.py``) are both made from it, so that they cannot say different things.
Every value is plain text: whoever lays it out escapes it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from feilun.bill.headings import sentence, word
from feilun.bill.invoice import DRAFT, Invoice
from feilun.bill.rating import Line
from feilun.bill.wording import Language, arithmetic, date, describe, moment, period_name
from feilun.store.money import format_money

_GROUPS = {
    "fee": "plan",
    "unused": "plan",
    "included": "usage",
    "usage": "usage",
    "event": "usage",
    "gauge": "usage",
    "trial": "reductions",
    "discount": "reductions",
    "minimum": "reductions",
}
_BELOW = ("tax", "credit")  # kinds that stand below the subtotal and the total


@dataclass(frozen=True)
class Party:
    """Seller or buyer: a heading, the name, and further lines."""

    heading: str
    name: str
    more: tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """One line. ``origin`` is its price version and release; ``query`` is empty where nothing is counted."""

    id: str
    description: str
    arithmetic: str
    origin: str
    units: str
    unit_price: str
    amount: str
    query: str


@dataclass(frozen=True)
class Group:
    """Lines under one heading."""

    heading: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Total:
    """A row below the lines; ``level`` is 0 for what leads to a sum, 1 for a sum, 2 for what is to be paid."""

    label: str
    detail: str
    amount: str
    level: int


@dataclass(frozen=True)
class Form:
    """What is shown, from top to bottom. ``mark`` is set across a paper that was not issued; else it is empty."""

    language: Language
    title: str
    number: str
    mark: str
    warning: str
    facts: tuple[tuple[str, str], ...]
    parties: tuple[Party, ...]
    groups: tuple[Group, ...]
    totals: tuple[Total, ...]
    notes: tuple[str, ...]

    def word(self, name: str) -> str:
        """A heading in the form's language."""
        return word(name, self.language)

    def sentence(self, name: str, **values: str | int) -> str:
        """A sentence in the form's language."""
        return sentence(name, self.language, **values)


def form_of(invoice: Invoice, language: Language = "en") -> Form:
    """Everything that an invoice shows. English text of the lines is that which is stored; Chinese is made anew."""
    state = invoice.state if invoice.state in ("draft", "grace") else ""
    return Form(
        language=language,
        title=word(invoice.kind, language),
        number=word("draft", language) if invoice.number == DRAFT else invoice.number,
        mark=word(state, language) if state else "",
        warning=word(f"is_{state}", language) if state else "",
        facts=tuple(_facts(invoice, language)),
        parties=tuple(_parties(invoice, language)),
        groups=tuple(_groups(invoice, language)),
        totals=tuple(_totals(invoice, language)),
        notes=tuple(_notes(invoice, language)),
    )


def unit_price(line: Line, currency: str, language: Language = "en") -> str:
    """What one unit costs, or as many as the price is for; empty for lines that are a share of other lines."""
    if line.kind in ("trial", "discount", "minimum", *_BELOW):
        return ""
    price, per = format_money(line.unit_nano, currency), int(line.words.get("per", 1))
    return price if per == 1 else sentence("per", language, price=price, per=per)


def to_come(invoice: Invoice, language: Language = "en") -> str:
    """What an interim invoice does not charge yet: "Still to come when the month ends: minimum 30.00 USD, disk_gb"."""
    told = []
    for one in invoice.to_come:
        amount = format_money(int(one.get("minimum_nano", 0)), invoice.currency)
        told.append(str(one["meter"]) if "meter" in one else sentence("minimum", language, amount=amount))
    return sentence("to_come", language, what=(", " if language == "en" else "、").join(told))


def _facts(invoice: Invoice, language: Language) -> Iterator[tuple[str, str]]:
    yield word("number", language), word("draft", language) if invoice.number == DRAFT else invoice.number
    yield word("as_of" if invoice.state != "final" else "issued", language), date(invoice.at, language)
    if invoice.due_at is not None and invoice.due_nano > 0:
        yield word("due_at", language), date(invoice.due_at, language)
    month = period_name(invoice.period, language)
    if invoice.interim:
        until = f"{word('until', language)} {moment(invoice.at, language)}"
        month += f" ({until})" if language == "en" else f"（{until}）"
    yield word("period", language), month
    yield word("customer", language), invoice.tenant
    if invoice.corrects is not None:
        yield word("corrects", language), invoice.corrects
    if invoice.reason:
        yield word("reason", language), invoice.reason


def _parties(invoice: Invoice, language: Language) -> Iterator[Party]:
    if invoice.seller:
        yield _party("seller", invoice.seller, "", language)
    yield _party("buyer", invoice.buyer, invoice.tenant, language)


def _party(heading: str, known: Mapping[str, str], otherwise: str, language: Language) -> Party:
    more = [*known.get("address", "").splitlines(), known.get("country", "")]
    if known.get("tax_id"):
        more.append(f"{word('tax_id', language)}: {known['tax_id']}")
    if known.get("email"):
        more.append(known["email"])
    return Party(
        word(heading, language), known.get("name") or otherwise, tuple(part.strip() for part in more if part.strip())
    )


def _groups(invoice: Invoice, language: Language) -> Iterator[Group]:
    groups: dict[str, list[Entry]] = {}
    for line in invoice.lines:
        if line.kind not in _BELOW:
            groups.setdefault(_heading(line, invoice.period), []).append(_entry(line, invoice.currency, language))
    for name in ("plan", "late", "usage", "reductions", "other"):
        if name in groups:
            yield Group(word(name, language), tuple(groups[name]))


def _heading(line: Line, period: str) -> str:
    name = _GROUPS.get(line.kind, "other")
    return "late" if name == "usage" and line.period != period else name


def _entry(line: Line, currency: str, language: Language) -> Entry:
    description, sums = _told(line, currency, language)
    parts = [(word("price_version", language), line.price_version), (word("release", language), line.release)]
    return Entry(
        id=line.id,
        description=description,
        arithmetic=sums,
        origin=" · ".join(f"{name} {digest[:12]}" for name, digest in parts if digest),
        units=f"{line.units:,}" if _GROUPS.get(line.kind) != "reductions" else "",
        unit_price=unit_price(line, currency, language),
        amount=format_money(line.amount_nano, currency),
        query=line.query or "",
    )


def _told(line: Line, currency: str, language: Language) -> tuple[str, str]:
    if language == "en" and line.description:
        return line.description, line.arithmetic
    return describe(line, language), arithmetic(line, currency, language)


def _totals(invoice: Invoice, language: Language) -> Iterator[Total]:
    taxes = [line for line in invoice.lines if line.kind == "tax"]
    credits = [line for line in invoice.lines if line.kind == "credit"]
    currency = invoice.currency
    if taxes:
        subtotal = sum(line.amount_nano for line in invoice.lines if line.kind not in _BELOW)
        yield Total(word("subtotal", language), "", format_money(subtotal, currency), 1)
        yield from _below(taxes, currency, language)
    yield Total(word("total", language), "", invoice.total, 1)
    yield from _below(credits, currency, language)
    if invoice.kind == "invoice":
        yield Total(word("due", language), "", format_money(invoice.due_nano, currency), 2)
    else:
        yield Total(
            word("to_return" if credits else "credited", language), "", format_money(abs(invoice.due_nano), currency), 2
        )


def _below(lines: Iterable[Line], currency: str, language: Language) -> Iterator[Total]:
    for line in lines:
        description, sums = _told(line, currency, language)
        yield Total(description, sums, format_money(line.amount_nano, currency), 0)


def _notes(invoice: Invoice, language: Language) -> Iterator[str]:
    is_invoice = invoice.kind == "invoice"
    if is_invoice and invoice.state == "final" and invoice.due_at is not None and invoice.due_nano > 0:
        due = format_money(invoice.due_nano, invoice.currency)
        yield sentence("pay", language, due=due, date=date(invoice.due_at, language), number=invoice.number)
    if any(line.kind == "tax" and line.words.get("reverse") for line in invoice.lines):
        yield word("reverse", language)
    if is_invoice and invoice.first_sequence <= invoice.last_sequence:
        yield sentence("rows", language, first=invoice.first_sequence, last=invoice.last_sequence)
    first, last = invoice.first_event, invoice.last_event
    if is_invoice and first is not None and last is not None and first <= last:
        yield sentence("events", language, first=first, last=last)
    if invoice.to_come:
        yield to_come(invoice, language)
    yield word("rounding", language)
    traceable = next((line.id for line in invoice.lines if line.release), None)
    if is_invoice and traceable is not None and invoice.state == "final":
        yield sentence("trace", language, line=traceable)
    yield sentence("sealed", language, digest=hashlib.sha256(invoice.body.encode()).hexdigest())
