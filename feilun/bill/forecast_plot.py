"""A forecast as a picture: how the cumulative margin may go, and what it depends on most. Readable without colours."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from feilun.errors import SettingError
from feilun.store.money import NANO

if TYPE_CHECKING:
    from feilun.bill.forecast import Effect, Forecast

ENDINGS = (".svg", ".png")
MOST_BARS = 10
_STYLE: Any = {"svg.hashsalt": "feilun", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}


def draw(forecast: Forecast, file: Path) -> None:
    """Write the picture; the same forecast gives the same bytes.

    Raises:
        SettingError: the file's name ends otherwise than in .svg or .png, or it cannot be written.
    """
    if file.suffix not in ENDINGS:
        raise SettingError(
            f"a plot cannot be '{file.suffix or file.name}'", where=str(file), hint="end it in .svg or .png"
        )
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(10, 7.5), layout="constrained")
        FigureCanvasAgg(figure)
        upper, lower = figure.subplots(2, 1)
        fan(upper, forecast)
        _tornado(lower, forecast)
        try:
            figure.savefig(file, dpi=150, metadata={"Date": None} if file.suffix == ".svg" else {"Software": None})
        except OSError as error:
            raise SettingError(f"the plot cannot be written: {error.strerror}", where=str(file)) from error


def fan(axes: Any, forecast: Forecast) -> None:
    """Draw the cumulative margin into ``axes``, from before the first month on."""
    bands = [forecast.begins_nano, *(m.cumulative_nano for m in forecast.months)]
    months = range(len(bands))
    low, middle, high = ([band[i] / NANO for band in bands] for i in range(3))
    axes.fill_between(months, low, high, color="0.85", label="90 of 100 draws")
    axes.plot(months, middle, color="0.1", linewidth=1.8, label="median")
    axes.plot(months, low, color="0.35", linewidth=0.9, linestyle="--")
    axes.plot(months, high, color="0.35", linewidth=0.9, linestyle="--")
    axes.axhline(0, color="0.1", linewidth=0.8)
    even = forecast.break_even
    if even.p50 is not None:
        axes.axvline(even.p50, color="0.1", linewidth=0.9, linestyle=":", label=f"even in month {even.p50} (median)")
    axes.set_xlabel(f"month (1 is {forecast.months[0].period}; 0 is before it, with what was spent until then)")
    axes.set_ylabel(f"cumulative margin, {forecast.currency}")
    never = f"{even.never:.1%} of {forecast.draws:,} draws are not even by then"
    axes.set_title(f"{forecast.name}: margin of {len(forecast.months)} months; {never}", loc="left")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.19), ncols=3)  # no line can cross it there


def _tornado(axes: Any, forecast: Forecast) -> None:
    shown = [effect for effect in forecast.effects if effect.swing_nano][:MOST_BARS][::-1]
    middle = forecast.at_medians_nano / NANO
    for place, effect in enumerate(shown):
        for at, hatch, shade in ((effect.at_low_nano, "///", "0.95"), (effect.at_high_nano, "", "0.55")):
            width = at / NANO - middle
            axes.barh(place, width, left=middle, height=0.6, color=shade, edgecolor="0.1", hatch=hatch, linewidth=0.8)
    axes.axvline(middle, color="0.1", linewidth=0.9)
    axes.set_yticks(range(len(shown)), [_label(effect) for effect in shown])
    axes.set_xlabel(f"margin of all months, {forecast.currency}: hatched at the low value, grey at the high one")
    axes.set_title("one assumption at its low or high, every other at its median", loc="left")
    axes.xaxis.set_major_formatter("{x:,.0f}")


def _label(effect: Effect) -> str:
    low, high = (value_text(effect, value) for value in (effect.low, effect.high))
    return f"{effect.name.replace('_', ' ')}\n{low} to {high}"


def value_text(effect: Effect, value: float) -> str:
    """A value of an assumption with its unit, for people."""
    if effect.unit == "nano-units":
        return f"{value / NANO:,.4g}"
    return f"{value:,.4g} %" if effect.unit == "percent" else f"{value:,.4g}"
