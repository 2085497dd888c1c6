"""``feilun bill replay``: a month under other plans, other prices or another release, before anything changes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from feilun.cli.options import HERE, Json, Root, open_wheel
from feilun.show import print_json, print_table, say

if TYPE_CHECKING:
    from feilun.bill.counterfactual import Replay
    from feilun.bill.other_release import Rate


def replay(
    period: Annotated[str | None, typer.Option(help="A month, UTC: 2026-11. This one by default.")] = None,
    plan: Annotated[list[str] | None, typer.Option(help="TENANT=PLAN, or PLAN for everybody (repeatable).")] = None,
    prices: Annotated[Path | None, typer.Option(help="The project file whose plans are to hold.")] = None,
    release: Annotated[str | None, typer.Option(help="NAME@DIGITS in the place of those of its name.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw what was invoiced and would have been: FILE.svg or .png.")
    ] = None,
    project: Root = HERE,
    json: Json = False,
) -> None:
    """What each customer would have been invoiced, cost and got; nothing is written."""
    with open_wheel(project) as wheel:
        found = wheel.replay(period or wheel.period, plans=plan or [], prices=prices, release=release)
    if plot:
        from feilun.bill.replay_plot import draw

        draw(found, plot)
    if json:
        print_json(found.as_dict())
        return
    _show(found)
    if plot:
        say(f"  wrote {plot}")


def _show(found: Replay) -> None:
    from feilun.bill.counterfactual import percent
    from feilun.store.money import format_about

    rows = []
    for one in (*found.customers, found.total):
        amounts = [
            amount
            for side in ("revenue_nano", "cost_nano", "margin_nano")
            for amount in (getattr(one.then, side), getattr(one.instead, side))
        ]
        plans = one.then.plan if one.then.plan == one.instead.plan else f"{one.then.plan} > {one.instead.plan}"
        shares = [percent(right, one.judged) for right in (one.right_then, one.right_instead) if one.judged]
        rows.append(
            [one.tenant or "total", plans, *(format_about(n, found.currency) for n in amounts), " > ".join(shares)]
        )
    columns = [
        "customer",
        "plan",
        "invoiced",
        "instead",
        "cost",
        "instead",
        "margin",
        "instead",
        "right > instead",
    ]
    print_table(f"{found.period} replayed{' so far' if found.open else ''}, without taxes", columns, rows)
    if (other := found.release) is not None:
        say(
            f"  a token takes {_rate(other.then)} core-µs, of {other.name}@{other.release[:12]} {_rate(other.instead)}"
            f" (measured: {other.instead.measured})"
        )
        if other.gain_ppm is not None and other.gain_low_ppm is not None and other.gain_high_ppm is not None:
            low, high = (f"{bound / 10_000:+.1f}" for bound in (other.gain_low_ppm, other.gain_high_ppm))
            say(f"  right answers {other.gain_ppm / 10_000:+.1f} % [{low}, {high}] of {other.judged} that are judged")


def _rate(rate: Rate) -> str:
    return f"{rate.core_ns / rate.tokens / 1_000:.1f}"
