"""``feilun search``: settings of a fine-tuning that are better than those that the project file has."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from feilun.cli.options import HERE, Json, Root, Set, open_wheel
from feilun.show import print_json, print_table, progress, say

if TYPE_CHECKING:
    from feilun.trials.search import Found, Trial

GOES_ON = "interrupted: what was trained is kept; give the same command again to go on\n"
Plot = Annotated[Path | None, typer.Option("--plot", help="Draw it into this file: .svg or .png.")]
Section = Annotated[str | None, typer.Argument(help="Which section finetune.NAME; the only one.", show_default=False)]


def search(
    name: Section = None,
    trials: Annotated[int, typer.Option(min=1, help="Of all calls of the same search together.")] = 20,
    minutes: Annotated[float | None, typer.Option(min=0, help="At the most, in this call.")] = None,
    money: Annotated[
        str | None, typer.Option(help="At the most, of all calls: '1 USD'; processor time at core_hour.")
    ] = None,
    space: Annotated[
        list[str], typer.Option("--space", help="learning_rate=1e-5..1e-3 or method=full,lora (may be repeated).")
    ] = [],  # noqa: B006 - Typer copies it
    by: Annotated[
        Literal["figure", "loss"] | None,
        typer.Option(help="What is compared on held-out training rows: the task's first figure, or the loss."),
    ] = None,
    pruner: Annotated[
        Literal["median", "hyperband", "none"], typer.Option(help="When a trial that is behind is given up.")
    ] = "median",
    seed: Annotated[int, typer.Option(min=0, help="Of what is tried; the trainings have the section's.")] = 0,
    plot: Plot = None,
    set_: Set = [],  # noqa: B006 - Typer copies it
    project: Root = HERE,
    json: Json = False,
) -> None:
    """Try settings, the next ones where the last ones were good; print the best as lines of the project file."""
    from feilun.store.money import parse_money
    from feilun.trials import plots
    from feilun.trials import search as searching

    plots.check(plot)
    wanted = searching.Wanted(
        trials, minutes, parse_money(money) if money else None, tuple(space), by=by, pruner=pruner, seed=seed
    )
    with open_wheel(project, set_) as wheel, progress() as observe:
        try:
            found = searching.search(wheel.subject(name, observe), wanted, None if json else _told)
        except KeyboardInterrupt:
            sys.stderr.write(GOES_ON)
            raise
    if plot is not None:
        plots.searched(found, plot)
    if json:
        print_json(found.as_dict())
    else:
        _show(found, plot)


def _told(trial: Trial) -> None:
    figure = f"{trial.figure:.4f}" if trial.figure is not None else trial.state
    say(f"trial {trial.number:>3}  {figure:<11}  {_values(trial.values)}{f'  ({trial.why})' if trial.why else ''}")


def _show(found: Found, plot: Path | None) -> None:
    done = [t for t in found.trials if t.figure is not None]
    order = sorted(done, key=lambda t: (t.figure or 0.0) * (-1 if found.higher_is_better else 1))[:10]
    rows = [[t.number, t.figure, t.core_ns / 1e9, _values(t.values)] for t in order]
    print_table(
        f"{found.section}: the best of {len(found.trials)} trials, by the held-out {found.figure.replace('_', ' ')}",
        ["trial", found.figure, "core seconds", "settings"],
        rows,
    )
    given_up = sum(t.state == "pruned" for t in found.trials)
    say(
        f"  stopped: enough {found.stopped}; {given_up} given up early; {found.core_ns / 1e9:,.0f} core-seconds,",
    )
    say(f"  {found.cost}; the same command goes on")
    if found.toml is not None:
        say("")
        sys.stdout.write(found.toml + "\n")
    if plot is not None:
        say(f"  wrote {plot}")


def _values(values: Any) -> str:
    return "  ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
    )
