"""``feilun relearn``: one turn of the wheel."""

from __future__ import annotations

from typing import Annotated

import typer

from feilun.cli.options import HERE, Json, Root, Set, open_wheel
from feilun.show import print_json, print_table, progress, say, short


def relearn(
    name: Annotated[str | None, typer.Argument(help="The model that learns; the only one by default.")] = None,
    promote: Annotated[bool, typer.Option(help="Promote the candidate if the decision is for it.")] = True,
    project: Root = HERE,
    set_: Set = [],  # noqa: B006 - Typer copies it
    json: Json = False,
) -> None:
    """Learn from feedback, weigh the candidate by what it would earn, and promote it if that is worth it."""
    with open_wheel(project, set_) as wheel, progress() as observe:
        turn = wheel.relearn(name, promote=promote, observe=observe)
    if json:
        print_json(turn.as_dict())
        return
    decision = turn.decision
    rows = [
        [c["name"], c["held_out"], c["inputs_per_day"], c["champion_accuracy"], c["candidate_accuracy"]]
        for c in decision.cohorts
    ]
    print_table("customers' held-out corrections", ["customer", "rows", "inputs a day", "now", "candidate"], rows)
    old = [[o["name"], o["champion_macro_f1"], o["candidate_macro_f1"], o["drop"]] for o in decision.old_domains]
    print_table("what it knew before, macro-F1", ["domain", "now", "candidate", "drop"], old)
    for reason in decision.reasons:
        say(f"  {reason}")
    done = f"promoted {short(turn.candidate)}" if turn.promoted else f"kept {short(turn.champion)}"
    say(f"verdict: [bold]{decision.verdict}[/bold]; {done}")
