"""Searches, validations and learning curves as pictures; readable without colours, the same bytes each time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from feilun.errors import SettingError

if TYPE_CHECKING:
    from feilun.trials.curve import Curve
    from feilun.trials.search import Found
    from feilun.trials.validate import Validation

ENDINGS = (".svg", ".png")
MOST = 8  # settings or figures beside each other
_STYLE: Any = {"svg.hashsalt": "feilun", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}


def check(file: Path | None) -> None:
    """Refuse a file that could not be drawn into, before anything is trained for it.

    Raises:
        SettingError: the name ends otherwise than in .svg or .png, or there is no such folder.
    """
    if file is None:
        return
    if file.suffix not in ENDINGS:
        what = f"a plot cannot be '{file.suffix or file.name}'"
        raise SettingError(what, where=str(file), hint="end it in .svg or .png")
    if not file.resolve().parent.is_dir():
        raise SettingError("there is no such folder", where=str(file.resolve().parent))


def searched(found: Found, file: Path) -> None:
    """Each trial's figure in the order of the trials, and against each setting.

    Raises:
        SettingError: the file cannot be written.
    """
    names = [n for n in found.space if any(n in t.values for t in found.trials)][:MOST]

    def draw(figure: Any) -> None:
        grid = figure.add_gridspec(2, max(1, len(names)))
        upper = figure.add_subplot(grid[0, :])
        lower = [figure.add_subplot(grid[1, i]) for i in range(len(names))]
        _history(upper, found)
        for axes, name in zip(lower, names, strict=True):
            _against(axes, found, name)

    _write(file, draw, (max(8.0, 2.6 * len(names)), 7.0))


def validated(found: Validation, file: Path) -> None:
    """Each figure's values in the folds, and the interval of their mean.

    Raises:
        SettingError: the file cannot be written.
    """

    def draw(figure: Any) -> None:
        shown = list(found.metrics.items())[:MOST]
        for place, (name, told) in enumerate(shown, 1):
            axes = figure.add_subplot(1, len(shown), place)
            values = [fold.figures[name] for fold in found.folds]
            axes.plot(range(1, len(values) + 1), values, "o", color="0.1")
            axes.axhline(told["mean"], color="0.1", linewidth=1)
            axes.axhspan(told["low"], told["high"], color="0.88")
            axes.set_title(name.replace("_", " "), loc="left")
            axes.set_xlabel("fold")
            axes.set_xticks(range(1, len(values) + 1))
        figure.suptitle(f"{found.section}: {len(found.folds)} folds by {found.by}; mean and its 95 % interval", x=0.5)

    _write(file, draw, (max(6.0, 2.4 * min(MOST, len(found.metrics))), 3.6))


def curve(found: Curve, file: Path) -> None:
    """What was measured, the law through it, and where it goes with more rows.

    Raises:
        SettingError: the file cannot be written.
    """

    def draw(figure: Any) -> None:
        axes = figure.add_subplot(1, 1, 1)
        rows = [p["rows"] for p in found.fitted]
        axes.fill_between(
            rows, [p["low"] for p in found.fitted], [p["high"] for p in found.fitted], color="0.88", label="95 %"
        )
        axes.plot(rows, [p["value"] for p in found.fitted], color="0.1", linewidth=1.4, label="a + b rows^-c")
        measured = [p.figures[found.metric] for p in found.points]
        axes.plot([p.rows for p in found.points], measured, "o", color="0.1", markersize=4, label="measured")
        axes.axvline(found.rows, color="0.4", linewidth=0.8, linestyle=":", label="the rows that there are")
        axes.set_xscale("log")
        axes.set_xlabel("training rows")
        axes.set_ylabel(found.metric.replace("_", " "))
        axes.set_title(f"{found.section}: {found.held_out:,} held-out rows", loc="left")
        axes.legend(frameon=False)

    _write(file, draw, (7.5, 4.8))


def _history(axes: Any, found: Found) -> None:
    marks = {"finished": ("o", "0.1"), "pruned": ("x", "0.45")}
    best, so_far, at = None, [], []
    for trial in found.trials:
        figure = trial.figure if trial.figure is not None else _last(trial.looks)
        if trial.state not in marks or figure is None:
            continue
        shape, colour = marks[trial.state]
        axes.plot(trial.number, figure, shape, color=colour)
        if trial.figure is not None:
            better = best is None or (trial.figure > best if found.higher_is_better else trial.figure < best)
            best = trial.figure if better else best
            so_far.append(best)
            at.append(trial.number)
    axes.step(at, so_far, where="post", color="0.1", linewidth=1)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("trial (crosses were given up)")
    axes.set_ylabel(f"held-out {found.figure.replace('_', ' ')}")
    axes.set_title(f"{found.section}: {len(found.trials)} trials, {found.cost}", loc="left")


def _against(axes: Any, found: Found, name: str) -> None:
    done = [t for t in found.trials if t.figure is not None and name in t.values]
    values: list[Any] = [t.values[name] for t in done]
    if any(isinstance(value, str | bool) for value in values):
        values = [str(value) for value in values]
    axes.plot(values, [t.figure for t in done], "o", color="0.1", markersize=4)
    if found.space[name].get("log"):
        axes.set_xscale("log")
    axes.set_xlabel(name.replace("_", " "))


def _last(looks: Any) -> float | None:
    return list(looks.values())[-1] if looks else None


def _write(file: Path, draw: Callable[[Any], None], size: tuple[float, float]) -> None:
    check(file)
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        try:
            figure.savefig(file, dpi=150, metadata={"Date": None} if file.suffix == ".svg" else {"Software": None})
        except OSError as error:
            raise SettingError(f"the plot cannot be written: {error.strerror}", where=str(file)) from error
