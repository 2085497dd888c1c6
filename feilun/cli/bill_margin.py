"""``feilun bill margin``: what each customer, plan, model, release, day or request earned after every cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from feilun.cli.options import HERE, Json, Root, open_wheel
from feilun.show import print_json, print_table, say

if TYPE_CHECKING:
    from feilun.bill.margin import Report, Row


def margin(
    by: Annotated[str, typer.Option(help="tenant, plan, model, release, day or request.")] = "tenant",
    period: Annotated[str | None, typer.Option(help="A month, UTC: 2026-11; or all. This one by default.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Only this customer.")] = None,
    limit: Annotated[int, typer.Option(help="With --by request: how many, the dearest first.")] = 20,
    plot: Annotated[Path | None, typer.Option(help="Draw revenue, costs and margin: FILE.svg or FILE.png.")] = None,
    project: Root = HERE,
    json: Json = False,
) -> None:
    """Revenue less the measured cost of serving, overhead, loads, idle time, training, storage and fixed costs."""
    from feilun.bill.margin import Query

    with open_wheel(project) as wheel:
        month = None if period == "all" else period or wheel.period
        report = wheel.margin(Query(by, month, tenant, limit))
    if plot:
        from feilun.bill.margin_plot import draw

        draw(report, plot)
    if json:
        print_json(report.as_dict())
        return
    show(report)
    if plot:
        say(f"  wrote {plot}")


def show(report: Report) -> None:
    """The report as a table, and below it what was measured."""
    from feilun.bill.margin import COSTS
    from feilun.store.money import format_about

    used = [cost for cost in COSTS if getattr(report.everybody, f"{cost}_nano")]
    currency = report.currency

    def line(row: Row, name: str) -> list[str]:
        amounts = [row.revenue_nano, *(getattr(row, f"{cost}_nano") for cost in used), row.margin_nano]
        return [name, f"{row.requests:,}", *(format_about(nano, currency) for nano in amounts)]

    rest = "all others" if report.by == "request" else "nobody" if report.by == "tenant" else "none"
    rows = [line(row, _short(row.name) or rest) for row in report.rows]
    rows.append(line(report.total, "total"))
    print_table(
        f"margin by {report.by}, {report.window.period or 'all time'}",
        [report.by, "requests", "revenue", *used, "margin"],
        rows,
    )
    measured = report.measured
    parts = {"requests": measured.requests_ns, "overhead": measured.overhead_ns}
    parts |= {"loads": measured.loads_ns, "idle": measured.idle_ns}
    told = ", ".join(f"{name} {ns / 1e9:,.1f} s" for name, ns in parts.items())
    say(f"  of {measured.offered_ns / 1e9:,.1f} s of cores: {told}")
    for name, nano in report.apart.items():
        if nano:
            say(f"  in no row: {name.replace('_', ' ')} {format_about(nano, currency)}")
    if report.not_invoiced:
        say(f"  without fees yet, because the month is not closed for them: {report.not_invoiced} customers")


def _short(name: str) -> str:
    return name[:12] if len(name) == 64 else name
