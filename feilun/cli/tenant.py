"""``feilun tenant``: who is served, and under which plan."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from feilun.cli.options import HERE, Json, Root, open_wheel
from feilun.show import print_json, print_table, say

if TYPE_CHECKING:
    from feilun.accounts.tenants import Tenant
    from feilun.flywheel import Flywheel

app = typer.Typer(help="Customers and their plans.", no_args_is_help=True)


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="a-z, 0-9 and hyphens.")],
    plan: Annotated[str, typer.Option(help="A plan of the project file (bill.plans).")],
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


@app.command()
def change(
    name: Annotated[str, typer.Argument(help="The customer.")],
    plan: Annotated[str | None, typer.Option(help="Another plan, from the next request on.")] = None,
    budget: Annotated[str | None, typer.Option(help='What a month may cost: "100 USD", or "none".')] = None,
    project: Root = HERE,
    json: Json = False,
) -> None:
    """Change a customer's plan or monthly budget. Its fee is divided as the plans' prorate says."""
    from feilun.accounts import tenants

    with open_wheel(project) as wheel:
        if plan is not None:
            wheel.set_plan(name, plan, budget=budget if budget != "none" else None)
        if budget == "none" or (budget is not None and plan is None):
            wheel.set_budget(name, budget if budget != "none" else None)
        changed = tenants.get(wheel.database, name)
        limit = _limit(wheel, changed)
    if json:
        print_json(asdict(changed))
    else:
        say(f"customer [bold]{changed.id}[/bold] on plan {changed.plan}, monthly budget {limit}")


@app.command("list")
def list_(project: Root = HERE, json: Json = False) -> None:
    """Every customer, with its plan and monthly budget."""
    from feilun.accounts import tenants

    with open_wheel(project) as wheel:
        found = tenants.tenants(wheel.database)
        rows = [[t.id, t.plan, _limit(wheel, t), t.active] for t in found]
    if json:
        print_json([asdict(tenant) for tenant in found])
        return
    print_table("customers", ["name", "plan", "monthly budget", "active"], rows)


def _limit(wheel: Flywheel, tenant: Tenant) -> str:
    """A customer's budget, in the currency of its plan while the project file has that."""
    from feilun.store.money import format_money

    if tenant.budget_nano is None:
        return "none"
    settings = wheel.bill_settings
    known = tenant.plan in settings.plans
    currency = settings.currency(tenant.plan) if known else settings.core_hour.currency
    return format_money(tenant.budget_nano, currency)
