"""``feilun bill credit``, ``coupon``, ``profile`` and ``plan``: what a customer has, and what it is charged."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer

from feilun.cli.options import HERE, Json, Root, open_wheel
from feilun.show import print_json, print_table, say

Customer = Annotated[str, typer.Argument(help="The customer.")]


def credit(
    tenant: Customer,
    amount: Annotated[str | None, typer.Argument(help="What to grant: '50.00 USD'. Without it: what there is.")] = None,
    expires: Annotated[str | None, typer.Option(help="The first day (UTC) on which it is gone: 2027-01-01.")] = None,
    reason: Annotated[str, typer.Option(help="Why, as invoices say it.")] = "",
    project: Root = HERE,
    json: Json = False,
) -> None:
    """Grant prepaid credit, or show what is left of it; invoices use what expires first."""
    from feilun.accounts import tenants
    from feilun.bill import credits
    from feilun.store.money import format_money, parse_money

    with open_wheel(project) as wheel:
        plan = tenants.get(wheel.database, tenant).plan
        if amount is not None:
            until, money = _day(expires), parse_money(amount)
            currency = wheel.bill_settings.terms(plan).currency
            credits.grant(wheel.database, tenant, money, reason=reason, expires_at=until, currency=currency)
        with wheel.database.read() as connection:
            found = credits.of_tenant(connection, tenant)
    if json:
        print_json([each.as_dict() for each in found])
        return
    rows = [
        [c.id, format_money(c.amount_nano, c.currency), format_money(c.left_nano, c.currency), _date(c.expires_at)]
        for c in found
    ]
    print_table(f"credit of {tenant}", ["grant", "granted", "left", "expires"], rows)


def coupon(
    tenant: Customer,
    code: Annotated[
        str | None, typer.Argument(help="A coupon of the project file; without it: what was redeemed.")
    ] = None,
    project: Root = HERE,
    json: Json = False,
) -> None:
    """Redeem a coupon for a customer: it holds from this month on."""
    from feilun.accounts import tenants
    from feilun.bill import coupons

    with open_wheel(project) as wheel:
        tenants.get(wheel.database, tenant)
        if code is not None:
            coupons.redeem(wheel.database, tenant, code, wheel.bill_settings)
        with wheel.database.read() as connection:
            found = coupons.of_tenant(connection, tenant)
    if json:
        print_json([each.as_dict() for each in found])
        return
    rows = [[c.code, c.off, c.months, _date(c.at)] for c in found]
    print_table(f"coupons of {tenant}", ["coupon", "off", "months", "redeemed"], rows)


def profile(
    tenant: Customer,
    name: Annotated[str | None, typer.Option(help="Of the company or person.")] = None,
    address: Annotated[str | None, typer.Option(help="Lines as they stand on a letter.")] = None,
    country: Annotated[str | None, typer.Option(help="Two letters, ISO 3166-1: DE. It decides the tax.")] = None,
    tax_id: Annotated[str | None, typer.Option(help="Of a company: DE123456789.")] = None,
    email: Annotated[str | None, typer.Option(help="Where Stripe sends the invoices.")] = None,
    language: Annotated[str | None, typer.Option(help="Of its invoices: en or zh.")] = None,
    project: Root = HERE,
    json: Json = False,
) -> None:
    """Show who a customer is on its invoices, and change what is given; '' forgets a field."""
    from feilun.bill import profiles

    given = {"name": name, "address": address, "country": country, "tax_id": tax_id}
    given |= {"email": email, "language": language}
    with open_wheel(project) as wheel:
        if any(value is not None for value in given.values()):
            profiles.save(wheel.database, tenant, **given)
        found = profiles.get(wheel.database, tenant)
    if json:
        print_json(found)
        return
    print_table(f"profile of {tenant}", ["what", "as it is on invoices"], [list(item) for item in found.items()])


def plan(
    tenant: Customer,
    plan: Annotated[str, typer.Argument(help="A plan of the project file (bill.plans).")],
    project: Root = HERE,
    json: Json = False,
) -> None:
    """Put a customer on another plan from now on; its fees are prorated as the plans say."""
    from feilun.accounts import tenants
    from feilun.bill import plan_history

    with open_wheel(project) as wheel:
        wheel.bill_settings.terms(plan)
        plan_history.announce(wheel.database, wheel.bill_settings.all_terms())
        changed = tenants.set_plan(wheel.database, tenant, plan)
    if json:
        print_json(asdict(changed))
    else:
        say(f"customer [bold]{changed.id}[/bold] is on plan {changed.plan} from now on")


def _day(text: str | None) -> int | None:
    from feilun.bill.amounts import microseconds
    from feilun.errors import SettingError

    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise SettingError(f"'{text}' is not a day", where="--expires", hint="write it as 2027-01-01") from error
    return microseconds(moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC))


def _date(at: int | None) -> str:
    return "never" if at is None else f"{datetime.fromtimestamp(at // 10**6, UTC):%Y-%m-%d}"
