"""``feilun learning-curve``: what more data would bring."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from feilun.cli.options import HERE, Json, Root, Set, open_wheel
from feilun.cli.search import GOES_ON, Plot, Section
from feilun.show import interval, print_json, print_table, progress, say

if TYPE_CHECKING:
    from feilun.trials.curve import Curve, Point


def learning_curve(
    name: Section = None,
    sizes: Annotated[int, typer.Option(min=4, max=12, help="5: 1/16, 1/8, 1/4, 1/2 and all of the rows.")] = 5,
    draws: Annotated[int, typer.Option(min=1, max=100, help="Of each size, each with its own rows and seed.")] = 3,
    metric: Annotated[str | None, typer.Option(help="Of the task; its first one by default.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of which rows are drawn.")] = 0,
    plot: Plot = None,
    set_: Set = [],  # noqa: B006 - Typer copies it
    project: Root = HERE,
    json: Json = False,
) -> None:
    """Train on ever larger parts of the data, and say what two and four times the data can be expected to bring."""
    from feilun.trials import curve, plots

    plots.check(plot)
    with open_wheel(project, set_) as wheel, progress() as observe:
        told = None if json else lambda point: _told(point, metric)
        try:
            found = curve.learning_curve(
                wheel.subject(name, observe), sizes=sizes, draws=draws, metric=metric, seed=seed, told=told
            )
        except KeyboardInterrupt:
            sys.stderr.write(GOES_ON)
            raise
    if plot is not None:
        plots.curve(found, plot)
    if json:
        print_json(found.as_dict())
        return
    _show(found)
    if plot is not None:
        say(f"  wrote {plot}")


def _told(point: Point, metric: str | None) -> None:
    name = metric or next(iter(point.figures))
    how = "[dim]reused[/dim]" if point.reused else f"{point.core_ns / 1e9:.1f} core-seconds"
    say(f"{point.rows:>9,} rows, draw {point.draw}: {name.replace('_', ' ')} {point.figures[name]:.4f}; {how}")


def _show(found: Curve) -> None:
    rows = [
        ["what there is" if e["times"] == 1 else f"{e['times']} times", e["rows"], interval(e), interval(e["gain"])]
        for e in found.expected
    ]
    told = found.metric.replace("_", " ")
    print_table(
        f"{found.section}: expected {told} on {found.held_out:,} held-out rows [95 %]",
        ["data", "rows", told, "gain over what there is"],
        rows,
    )
    a, b, c = (found.law[k] for k in "abc")
    say(f"  error = a + b rows^-c with a {a['value']:.3g} [{a['low']:.3g}, {a['high']:.3g}], b {b['value']:.3g},")
    say(
        f"  c {c['value']:.2f} [{c['low']:.2f}, {c['high']:.2f}]; error is {found.error}. The intervals hold the chance"
    )
    say("  in rows, seeds and fit, where the law goes on as a power law and new rows are like the old ones.")
