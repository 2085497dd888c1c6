"""``feilun key``: what a customer's programs say who they are with."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from feilun.cli.options import HERE, Json, Root, open_wheel
from feilun.show import print_json, print_table, say

if TYPE_CHECKING:
    from feilun.accounts.keys import Key

app = typer.Typer(help="API keys.", no_args_is_help=True)


@app.command()
def create(
    tenant: Annotated[str, typer.Argument(help="Whose key it is.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help="classify, feedback, usage, products; for yourself: metrics, events, admin (may be repeated)."
        ),
    ] = None,
    days: Annotated[float | None, typer.Option(help="How long it lives; for ever by default.")] = None,
    budget: Annotated[str | None, typer.Option(help="The most it may spend in a month: '5.00 USD'.")] = None,
    quota: Annotated[
        list[str] | None, typer.Option(help="The most units of a month: requests=1000 (repeatable).")
    ] = None,
    project: Root = HERE,
    json: Json = False,
) -> None:
    """Make a key. It is shown once and kept only as a keyed digest."""
    from feilun.accounts.keys import USUAL

    with open_wheel(project) as wheel:
        made = wheel.add_key(tenant, scopes=scope or USUAL, days=days, budget=budget, quota=_units(quota or []))
    if json:
        print_json({"key": made.token, "public_id": made.public_id, "tenant": tenant})
    else:
        say(f"{made.token}\n[dim]keep it: it cannot be shown again[/dim]")


@app.command("list")
def list_(
    tenant: Annotated[str | None, typer.Argument(help="Only this customer's.")] = None,
    project: Root = HERE,
    json: Json = False,
) -> None:
    """Public ids, scopes and state of the keys; never the keys themselves."""
    from feilun.accounts import keys

    with open_wheel(project) as wheel:
        found = keys.keys(wheel.database, tenant)
    if json:
        print_json([asdict(key) for key in found])
        return
    rows = [
        [k.public_id, k.tenant, k.mode, " ".join(k.scopes), _limits(k), "revoked" if k.revoked_at else "good"]
        for k in found
    ]
    print_table("keys", ["public id", "customer", "mode", "scopes", "in a month", "state"], rows)


@app.command()
def budget(
    public_id: Annotated[str, typer.Argument(help="As 'feilun key list' shows it.")],
    amount: Annotated[str, typer.Argument(help="The most it may spend in a month, '5.00 USD', or 'none'.")],
    project: Root = HERE,
    json: Json = False,
) -> None:
    """Change what a key may spend in a calendar month (UTC), from its next request on."""
    with open_wheel(project) as wheel:
        key = wheel.set_key_budget(public_id, None if amount == "none" else amount)
    if json:
        print_json(asdict(key))
    else:
        say(f"{key.public_id} may spend {_budget(key)} a month")


@app.command()
def quota(
    public_id: Annotated[str, typer.Argument(help="As 'feilun key list' shows it.")],
    units: Annotated[
        list[str] | None, typer.Argument(help="requests=1000 tokens=50000; nothing for any number.")
    ] = None,
    project: Root = HERE,
    json: Json = False,
) -> None:
    """Change how many units of a calendar month (UTC) a key may use, from its next request on."""
    with open_wheel(project) as wheel:
        key = wheel.set_key_quota(public_id, _units(units or []))
    if json:
        print_json(asdict(key))
    else:
        say(f"{key.public_id} may use {_limits(key)} a month")


@app.command()
def revoke(
    public_id: Annotated[str, typer.Argument(help="As 'feilun key list' shows it.")],
    project: Root = HERE,
    json: Json = False,
) -> None:
    """End a key; every gateway refuses it within a second."""
    from feilun.accounts import keys

    with open_wheel(project) as wheel:
        ended = keys.revoke(wheel.database, public_id)
    if json:
        print_json(asdict(ended))
    else:
        say(f"key {ended.public_id} of {ended.tenant} is revoked")


@app.command()
def rotate(
    public_id: Annotated[str, typer.Argument(help="The key to replace.")],
    overlap_hours: Annotated[float, typer.Option(help="How long the old one lives on.")] = 24.0,
    project: Root = HERE,
    json: Json = False,
) -> None:
    """Make a key like this one; the old one lives on for a while."""
    from feilun.accounts import keys

    with open_wheel(project) as wheel:
        pepper = wheel.required_pepper()
        made = keys.rotate(wheel.database, pepper, public_id, overlap_s=overlap_hours * 3600)
    if json:
        print_json({"key": made.token, "public_id": made.public_id, "replaces": public_id})
    else:
        say(f"{made.token}\n[dim]keep it: it cannot be shown again; {public_id} ends in {overlap_hours:g} hours[/dim]")


def _budget(key: Key) -> str:
    """In the currency of the customer's plan."""
    from feilun.store.money import format_money

    return "any amount" if key.budget_nano is None else format_money(key.budget_nano, "").strip()


def _limits(key: Key) -> str:
    units = [f"{most:,} {meter}" for meter, most in key.quota.items()]
    return ", ".join([_budget(key), *units] if key.budget_nano is not None or not units else units)


def _units(given: list[str]) -> dict[str, int]:
    """``["requests=1000"]`` as numbers by meter.

    Raises:
        SettingError: not of that form.
    """
    from feilun.errors import SettingError

    found = {}
    for one in given:
        meter, _, number = one.partition("=")
        if not (number.isascii() and number.replace("_", "").isdigit()):
            raise SettingError(f"'{one[:80]}' is not a quota", where="quota", hint="write it as requests=1000")
        found[meter] = int(number[:20])
    return found
