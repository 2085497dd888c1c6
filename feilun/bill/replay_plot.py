"""A picture of a replay: for each customer what it was charged and would have been, and what was left of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from feilun.errors import SettingError

if TYPE_CHECKING:
    from feilun.bill.counterfactual import Replay

MOST = 30  # customers that can be read in one picture


def draw(replay: Replay, file: Path) -> None:
    """Write ``file`` as SVG or PNG, by its ending; the customers whose amount changes most.

    Raises:
        SettingError: another ending.
    """
    if file.suffix not in (".svg", ".png"):
        raise SettingError(f"a plot cannot be written as '{file.name}'", hint="name it FILE.svg or FILE.png")
    import matplotlib as mpl
    from matplotlib.figure import Figure

    customers = sorted(replay.customers, key=lambda c: -abs(c.instead.revenue_nano - c.then.revenue_nano))[:MOST]
    places = list(range(len(customers)))
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    sides = ((-0.2, "then", "#8c959f", "o"), (0.2, "instead", "#0969da", "D"))
    for shift, side, colour, mark in sides:
        chosen = [getattr(customer, side) for customer in customers]
        axes.bar(
            [p + shift for p in places],
            [_units(s.revenue_nano) for s in chosen],
            0.38,
            color=colour,
            label=f"invoiced {side}",
        )
        axes.plot(
            [p + shift for p in places],
            [_units(s.margin_nano) for s in chosen],
            mark,
            color="#1b1f24",
            ms=5,
            fillstyle="none" if side == "then" else "full",
            label=f"margin {side}",
        )
    axes.axhline(0, color="#1b1f24", lw=0.8)
    names = [customer.tenant[:14] for customer in customers]
    axes.set_xticks(places, names, rotation=45 if len(names) > 6 else 0, ha="right" if len(names) > 6 else "center")
    axes.set_ylabel(replay.currency)
    axes.set_title(f"{replay.period} replayed")
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    with mpl.rc_context({"svg.hashsalt": "feilun", "svg.fonttype": "none"}):
        figure.savefig(file, dpi=144, metadata={"Date": None} if file.suffix == ".svg" else None)


def _units(nano: int) -> float:
    """For drawing only; every sum was made before."""
    return nano / 10**9
