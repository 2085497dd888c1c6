"""Invoices to be laid out: a line of every kind, made by hand so that what is shown can be known beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from feilun.bill.invoice import Invoice
from feilun.bill.rating import Line
from feilun.bill.wording import worded
from feilun.store.artifacts import canonical
from feilun.store.money import round_to_minor

NANO = 10**9
DAY = 86_400 * 10**6
NOVEMBER = 1_793_491_200_000_000
RELEASE = "d45a3b0dff72" + "0" * 52
QUERY = "SELECT SUM(units) FROM usage WHERE tenant = 'acme' AND at < 1796083200000000"
SELLER = {"name": "Feilun Ltd", "address": "1 Wheel Road\nDublin 2", "country": "IE", "tax_id": "IE1234567T"}
BUYER = {"name": "ACME 数据科技有限公司", "address": "Musterstraße 1\n10115 Berlin", "country": "DE", "tax_id": "DE12"}
MARKUP = "<b>x</b><img src=x onerror=alert(1)>&amp;<para><font name='x'><![CDATA["
HOSTILE = (
    MARKUP,
    "</td></tr></table><script>alert(1)</script>",
    "W" * 300,
    "数" * 300,
    "word " * 60,
    "שלום עולם \u202etxt.exe",
    "مرحبا بالعالم",
    "😀👩\u200d👩\u200d👧",
    "Dvořák Łódź ąęű Ğ ẞ",
    "한국어 회사",
    "Газпром Ελλάς",
    "\x00\x07\ud800\x1b[31m\uffff",
    "\u00a0" * 200,
    "e\u0301\u0301\u0301 \u0301",
    "日本語カタカナ",
    "%s {0} $1 \\n",
    "",
)


def line(kind: str, exact_nano: int, currency: str = "USD", **values: Any) -> Line:
    """A line with its English text."""
    shared = {"period": "2026-11", "unit_nano": exact_nano, "price_version": "3f0c" * 16}
    amounts = {"exact_nano": exact_nano, "amount_nano": round_to_minor(exact_nano, currency)}
    return worded(Line(**(shared | amounts | {"kind": kind} | values)), currency)


def usage(units: int, unit_nano: int, exact_nano: int | None = None, **values: Any) -> Line:
    """A line of units, 'usage' unless ``kind`` says otherwise."""
    exact = units * unit_nano if exact_nano is None else exact_nano
    shared: dict[str, Any] = {"meter": "inputs", "query": QUERY, "units": units, "unit_nano": unit_nano}
    kind = values.pop("kind", "usage")
    return line(kind, exact, **({"release": RELEASE if kind in ("usage", "included") else None} | shared | values))


def of_every_kind() -> list[Line]:
    """Fee, usage, events, levels, discount, minimum, tax and credit."""
    part = {"begins": NOVEMBER + 10 * DAY, "ends": NOVEMBER + 30 * DAY, "part": 20 * DAY, "whole": 30 * DAY}
    return [
        line("unused", -12_666_666_667, unit_nano=19 * NANO, words={"plan": "starter", **part}),
        line("fee", 32_666_666_667, unit_nano=49 * NANO, words={"plan": "growth", **part}),
        usage(11, 800_000, period="2026-10", words={"late": 1}),
        usage(1000, 0, kind="included"),
        usage(797, 500_000),
        usage(12_345, 10_000_000, 123_450_000, meter="tokens", words={"per": 1000, "tier": 2, "above": 1000}),
        usage(
            2400,
            5 * NANO,
            15 * NANO,
            kind="event",
            meter="pages",
            words={"unit": "page", "rate": "package", "per": 1000},
        ),
        usage(6, 2 * NANO, kind="gauge", meter="seats", words={"unit": "seat", "aggregate": "max", "rate": "volume"}),
        usage(5000, 100_000, kind="gauge", meter="stored_examples"),
        line("trial", -NANO, words={"plan": "growth", "base_nano": NANO}),
        line("discount", -11 * NANO, words={"coupon": "LAUNCH", "percent": "20", "base_nano": 55 * NANO, "month": 1}),
        line("minimum", 2 * NANO, words={"plan": "growth", "minimum_nano": 50 * NANO, "reached_nano": 48 * NANO}),
        line("tax", 9_500_000_000, words={"name": "VAT", "country": "DE", "percent": "19", "base_nano": 50 * NANO}),
        line("credit", -25 * NANO, words={"reason": "Welcome", "grant": "01JD", "had_nano": 25 * NANO}),
    ]


def invoice(lines: Sequence[Line], currency: str = "USD", **values: Any) -> Invoice:
    """An issued invoice of these lines; anything can be said otherwise."""
    number = values.get("number", "INV-000042")
    numbered = tuple(replace(line, id=f"{number}/{i}") for i, line in enumerate(lines, start=1))
    total = sum(line.amount_nano for line in numbered if line.kind != "credit")
    credits = sum(line.amount_nano for line in numbered if line.kind == "credit")
    said: dict[str, Any] = {"number": number, "tenant": "acme", "period": "2026-11", "interim": False}
    said |= {"currency": currency, "total_nano": total, "first_sequence": 1, "last_sequence": 808}
    said |= {"at": NOVEMBER + 31 * DAY, "lines": numbered, "due_at": NOVEMBER + 45 * DAY}
    said |= {"buyer": BUYER, "seller": SELLER, "credits_nano": credits, "due_nano": total + credits}
    said["body"] = canonical({"amounts": [line.amount_nano for line in numbered]}).decode()
    return Invoice(**(said | values))
