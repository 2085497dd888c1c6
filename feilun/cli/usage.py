"""``feilun usage``: what each customer used."""

from __future__ import annotations

from typing import Annotated

import typer

from feilun.cli.options import HERE, Json, Root, open_wheel
from feilun.show import print_json, print_table


def usage(
    period: Annotated[str | None, typer.Option(help="A month, UTC: 2026-11. This one by default.")] = None,
    project: Root = HERE,
    json: Json = False,
) -> None:
    """Requests, inputs, tokens and what they cost, by customer."""
    from feilun.store.money import format_money

    with open_wheel(project) as wheel:
        found = wheel.usage(period)
    if json:
        print_json([row._asdict() for row in found])
        return
    rows = [
        [u.tenant, u.plan, u.period, u.requests, u.inputs, u.tokens, format_money(u.spent_nano, u.currency)]
        for u in found
    ]
    print_table("usage", ["customer", "plan", "month", "requests", "inputs", "tokens", "metered"], rows)
