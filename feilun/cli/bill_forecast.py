"""``feilun bill forecast``: margin, break-even and needed prices of the months to come."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from feilun.cli.options import HERE, Json, Root, Set, open_wheel
from feilun.show import print_json, print_table, say

if TYPE_CHECKING:
    from feilun.bill.forecast import Band, Forecast
    from feilun.bill.forecast_prices import NeededPrice

SHOWN = 12  # months in the table; a longer forecast shows every second, third, ... and the last


def forecast(
    name: Annotated[str | None, typer.Argument(help="Which section bill.forecast.NAME; the only one.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw it into this file: .svg or .png.")] = None,
    changes: Set = [],  # noqa: B006 - typer makes a new one for each call
    project: Root = HERE,
    json: Json = False,
) -> None:
    """Margin and month of break-even with their uncertainty, the price that meets a target, and what matters most."""
    with open_wheel(project, changes) as wheel:
        made = wheel.forecast(name)
    if plot is not None:
        from feilun.bill import forecast_plot

        forecast_plot.draw(made, plot)
    if json:
        print_json(made.as_dict())
        return
    _show(made)
    if plot is not None:
        say(f"  wrote {plot}")


def _show(made: Forecast) -> None:
    from feilun.bill.forecast_plot import value_text
    from feilun.store.money import format_about

    def amount(band: Band) -> str:
        low, middle, high = (format_about(n, "").strip() for n in band)
        return f"{middle} [{low}, {high}]"

    step = -(-len(made.months) // SHOWN)
    chosen = [m for i, m in enumerate(made.months, 1) if i % step == 0 or i in (1, len(made.months))]
    rows = [
        [m.period, f"{m.customers.p50:,} [{m.customers.p5:,}, {m.customers.p95:,}]"]
        + [amount(band) for band in (m.revenue_nano, m.cost_nano, m.margin_nano, m.cumulative_nano)]
        for m in chosen
    ]
    heads = ["month", "customers", "revenue", "cost", "margin", "cumulative"]
    print_table(f"{made.name}: median [5 %, 95 %] of {made.draws:,} draws, {made.currency}", heads, rows)
    even = made.break_even
    places = " / ".join("none" if p is None else f"month {p}" for p in (even.p5, even.p50, even.p95))
    say(f"  even after (5 / 50 / 95 %): {places}; in {even.never:.1%} of the draws not within these months")
    deepest = even.deepest_nano
    begin = amount(type(deepest)(-deepest.p95, -deepest.p50, -deepest.p5))
    say(f"  what has to be there to begin with: {begin} {made.currency}")
    print_table(
        f"the price that meets a margin of {made.prices[0].target_margin_percent} % "
        f"in {made.prices[0].target_chance_percent} % of the draws",
        ["plan", "price", "now", "needed"],
        [[p.plan, p.what, format_about(p.now_nano, made.currency), _needed(p, made.currency)] for p in made.prices],
    )
    effects = [
        [
            e.name,
            *(value_text(e, value) for value in (e.low, e.median, e.high)),
            *(format_about(n, made.currency) for n in (e.at_low_nano, e.at_high_nano)),
            f"{e.rank_correlation:+.2f}",
            e.basis,
        ]
        for e in made.effects
        if e.has_range
    ]
    heads = ["assumption", "low", "median", "high", "margin at low", "at high", "rank correlation", "basis"]
    print_table("what the margin depends on", heads, effects)
    if made.fixed:
        say(f"  not in it, because they have no range: {', '.join(made.fixed)}")


def _needed(price: NeededPrice, currency: str) -> str:
    """The exact amount, which is what just meets the target; fees are charged in whole coins, so the next one up."""
    from feilun.bill.forecast_prices import FEE
    from feilun.store.money import format_money, minor_digits

    if price.needed_nano is None or price.why is not None:
        return price.why or ""
    coin = 10 ** (9 - minor_digits(currency)) if price.what == FEE else 1
    return format_money(-(-price.needed_nano // coin) * coin, currency)
