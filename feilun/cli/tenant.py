"""``feilun tenant``: who is served, and under which plan."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from feilun.cli.options import HERE, Json, Root, open_wheel
from feilun.show import print_json, print_table, say

app = typer.Typer(help="Customers and their plans.", no_args_is_help=True)


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="a-z, 0-9 and hyphens.")],
    plan: Annotated[str, typer.Option(help="One of [bill.plans] in the project file.")],
    project: Root = HERE,
    json: Json = False,
) -> None:
    """Make a customer. Its budget is the plan's."""
    with open_wheel(project) as wheel:
        made = wheel.add_tenant(name, plan)
    if json:
        print_json(asdict(made))
    else:
        say(f"customer [bold]{made.id}[/bold] on plan {made.plan}; next: feilun key create {made.id}")


@app.command("list")
def list_(project: Root = HERE, json: Json = False) -> None:
    """Every customer, with its plan and monthly budget."""
    from feilun.accounts import tenants
    from feilun.store.money import format_money

    with open_wheel(project) as wheel:
        found = tenants.tenants(wheel.database)
        currency = wheel.bill_settings.core_hour.currency
    if json:
        print_json([asdict(tenant) for tenant in found])
        return
    rows = [
        [t.id, t.plan, format_money(t.budget_nano, currency) if t.budget_nano is not None else "none", t.active]
        for t in found
    ]
    print_table("customers", ["name", "plan", "monthly budget", "active"], rows)
