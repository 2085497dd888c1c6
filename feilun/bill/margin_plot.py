"""A picture of a margin report: for each row what was earned, what of it each cost took, and what is left."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from feilun.errors import SettingError

if TYPE_CHECKING:
    from feilun.bill.margin import Report

MOST = 40  # rows that can be read in one picture
COLOURS = ("#0969da", "#54aeff", "#b6e3ff", "#d0d7de", "#8250df", "#bf8700", "#bc4c00")


def draw(report: Report, file: Path) -> None:
    """Write ``file`` as SVG or PNG, by its ending.

    Raises:
        SettingError: another ending.
    """
    if file.suffix not in (".svg", ".png"):
        raise SettingError(f"a plot cannot be written as '{file.name}'", hint="name it FILE.svg or FILE.png")
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from feilun.bill.margin import COSTS

    rows = report.rows[:MOST] if report.by == "day" else sorted(report.rows, key=lambda r: -r.revenue_nano)[:MOST]
    places = list(range(len(rows)))
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    bottom = [0.0] * len(rows)
    for cost, colour in zip(COSTS, COLOURS, strict=True):
        heights = [_units(getattr(row, f"{cost}_nano")) for row in rows]
        if any(heights):
            axes.bar(places, heights, 0.38, bottom, label=cost, color=colour, align="edge")
            bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    axes.bar(places, [_units(r.revenue_nano) for r in rows], -0.38, label="revenue", color="#1a7f37", align="edge")
    axes.plot(places, [_units(row.margin_nano) for row in rows], "D", ms=5, color="#1b1f24", label="margin")
    axes.axhline(0, color="#1b1f24", lw=0.8)
    names = [(row.name or "none")[:14] for row in rows]
    axes.set_xticks(places, names, rotation=45 if len(rows) > 6 else 0, ha="right" if len(rows) > 6 else "center")
    axes.set_ylabel(report.currency)
    axes.set_title(f"Margin by {report.by}, {report.window.period or 'all time'}")
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    with mpl.rc_context({"svg.hashsalt": "feilun", "svg.fonttype": "none"}):
        figure.savefig(file, dpi=144, metadata={"Date": None} if file.suffix == ".svg" else None)


def _units(nano: int) -> float:
    """For drawing only; every sum was made before."""
    return nano / 10**9
