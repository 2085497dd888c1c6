"""``feilun validate``: how good the settings of a fine-tuning are, on every training row once."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from feilun.cli.options import HERE, Json, Root, Set, open_wheel
from feilun.cli.search import GOES_ON, Plot, Section
from feilun.show import print_json, print_table, progress, say

if TYPE_CHECKING:
    from feilun.trials.validate import Fold


def validate(
    name: Section = None,
    folds: Annotated[int, typer.Option(min=2, max=100, help="Parts, each of which is held out once.")] = 5,
    by: Annotated[
        Literal["text", "contributor", "domain", "time"],
        typer.Option(help="What is never on both sides; time: what is held out follows what is learned from."),
    ] = "text",
    seed: Annotated[int, typer.Option(min=0, help="Of which row is in which part.")] = 0,
    plot: Plot = None,
    set_: Set = [],  # noqa: B006 - Typer copies it
    project: Root = HERE,
    json: Json = False,
) -> None:
    """Cross-validation over the training rows; the held-out rows of the project are not touched."""
    from feilun.trials import plots
    from feilun.trials import validate as validating

    plots.check(plot)
    with open_wheel(project, set_) as wheel, progress() as observe:
        try:
            found = validating.validate(
                wheel.subject(name, observe), folds=folds, by=by, seed=seed, told=None if json else _told
            )
        except KeyboardInterrupt:
            sys.stderr.write(GOES_ON)
            raise
    if plot is not None:
        plots.validated(found, plot)
    if json:
        print_json(found.as_dict())
        return
    rows = [
        [metric, told["mean"], told["deviation"], f"[{told['low']:.3f}, {told['high']:.3f}]"]
        for metric, told in found.metrics.items()
    ]
    print_table(
        f"{found.section}: {len(found.folds)} folds by {found.by}",
        ["figure", "mean", "deviation", "95 % interval of the mean"],
        rows,
    )
    say(f"  {found.core_ns / 1e9:,.0f} core-seconds")
    if plot is not None:
        say(f"  wrote {plot}")


def _told(fold: Fold) -> None:
    name, value = next(iter(fold.figures.items()))
    how = "[dim]reused[/dim]" if fold.reused else f"{fold.core_ns / 1e9:.1f} core-seconds"
    said = f"{name.replace('_', ' ')} {value:.4f}"
    say(f"fold {fold.number}: {said}; {fold.learned:,} rows learned, {fold.held_out:,} held out; {how}")
