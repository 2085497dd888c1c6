"""Taxes by the project's rate table: the buyer's country decides, or reverse charge moves them to the customer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from feilun.bill.coupons import percent_of
from feilun.bill.rating import Line
from feilun.bill.wording import worded
from feilun.store.money import round_to_minor

if TYPE_CHECKING:
    from feilun.bill.invoice import Invoice
    from feilun.bill.settings import BillSettings, TaxSettings


def account(country: str) -> str:
    """The account of what is owed to a country's tax office."""
    return f"tax:{country}"


def taxes(
    lines: Sequence[Line],
    buyer: Mapping[str, str],
    seller: Mapping[str, str],
    rules: TaxSettings,
    when: tuple[str, int, str],
) -> list[Line]:
    """A line for each tax on the sum of ``lines``; none where no rate applies or nothing is charged.

    Args:
        buyer: the country decides; where it is not known, the seller's does.
        when: the period of the invoice, the moment (microseconds, UTC) whose rates apply, and the currency.
    """
    period, at, currency = when
    base = sum(line.amount_nano for line in lines)
    country = buyer.get("country") or seller.get("country", "")
    if not base:
        return []
    reverse = is_reversed(buyer, seller, rules)
    found = []
    for rate in rules.in_force(country, at):
        exact = 0 if reverse else percent_of(base, str(rate.percent))
        words: dict[str, str | int] = {"name": rate.name, "country": country, "percent": str(rate.percent)}
        words |= {"base_nano": base} | ({"reverse": 1, "tax_id": buyer["tax_id"]} if reverse else {})
        amount = round_to_minor(exact, currency)
        line = Line(kind="tax", period=period, unit_nano=exact, exact_nano=exact, amount_nano=amount, words=words)
        found.append(worded(line, currency))
    if reverse and not found:  # said even where the table has no rate for the customer's country
        words = {"name": "VAT", "country": country, "base_nano": base, "reverse": 1, "tax_id": buyer["tax_id"]}
        found.append(worded(Line(kind="tax", period=period, words=words), currency))
    return found


def without_country(invoices: Iterable[Invoice], settings: BillSettings) -> str:
    """Whose country is not known, where it decides the tax, and what was done; empty where there is nobody."""
    names = sorted({i.tenant for i in invoices if i.lines and not i.buyer.get("country")})
    if not names or not settings.tax.rates:
        return ""
    home = settings.seller.country
    done = f"taxed as in {home}" if home else "not taxed, and the seller has no country either"
    return f"no country known of: {', '.join(names)}; {done}: feilun bill profile"


def is_reversed(buyer: Mapping[str, str], seller: Mapping[str, str], rules: TaxSettings) -> bool:
    """Whether the customer accounts for the tax: another country, both in the list, and a tax id."""
    countries = (buyer.get("country", ""), seller.get("country", ""))
    among = all(country in rules.reverse_charge for country in countries)
    return among and countries[0] != countries[1] and bool(buyer.get("tax_id"))
