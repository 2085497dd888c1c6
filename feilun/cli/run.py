"""``feilun run``: the steps of the project whose result is not known yet."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from feilun.cli.options import HERE, Json, Root, Set, open_wheel
from feilun.show import interval, print_json, print_table, progress, say

if TYPE_CHECKING:
    from feilun.pipeline.execute import Outcome
    from feilun.pipeline.plan import Plan

MOST_LABELS = 8  # that a line can name


def run(
    project: Root = HERE,
    until: Annotated[
        str | None, typer.Option(help="Stop after this stage or section: finetune, finetune.reviews.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done and why, and do nothing.")] = False,
    set_: Set = [],  # noqa: B006 - Typer copies it
    json: Json = False,
) -> None:
    """Run what the project file declares. A step whose fingerprint is known is reused."""
    with open_wheel(project, set_) as wheel:
        plan = wheel.plan(until)
        if dry_run:
            _show_plan(plan, json)
            return
        with progress() as observe:
            try:
                outcomes = [_told(o, json) for o in wheel.run(plan, observe)]
            except KeyboardInterrupt:
                sys.stderr.write("interrupted: finished steps are kept; run it again to go on\n")
                raise
        if json:
            print_json({"steps": [_as_dict(o) for o in outcomes], "to_run": plan.to_run})
        elif all(o.reused for o in outcomes):
            say(f"[green]nothing to do[/green]: all {len(outcomes)} steps are known")


def _show_plan(plan: Plan, json: bool) -> None:
    if json:
        rows = [{"step": s.section.name, "state": s.state, "reason": s.reason} for s in plan.steps]
        print_json({"steps": rows, "to_run": plan.to_run})
        return
    print_table("plan", ["step", "state", "why"], [[s.section.name, s.state, s.reason] for s in plan.steps])


def _told(outcome: Outcome, json: bool) -> Outcome:
    if not json:
        how = "[dim]reused[/dim]" if outcome.reused else f"{outcome.seconds:6.1f} s"
        say(f"{how}  [bold]{outcome.name}[/bold] -> {outcome.artifact.kind} {outcome.artifact.short}  {_gist(outcome)}")
    return outcome


def _gist(outcome: Outcome) -> str:
    """The one thing to know about a result."""
    facts = outcome.artifact.facts
    if outcome.artifact.kind == "dataset":
        labels = ", ".join(facts["labels"]) if len(facts["labels"]) <= MOST_LABELS else f"{len(facts['labels'])} labels"
        left_out = sum(card(outcome).get("removed", {}).values())
        return f"{facts['rows']:,} rows ({labels}); {left_out:,} left out, see {outcome.artifact.path / 'card.json'}"
    if outcome.artifact.kind == "report":
        said = report(outcome)
        metric = chosen(said)[0]
        figures = "; ".join(
            f"{name} {in_words(metric)} {interval(d[metric])}" for name, d in said["domains"].items() if metric in d
        )
        verdict = "passed" if facts["passed"] else "[red]refused[/red]"
        return f"{verdict}: {figures}; {outcome.artifact.path / 'report.html'}"
    return ""


def chosen(report: dict[str, Any]) -> list[str]:
    """The one or two metrics of a report that a line or a table tells."""
    known = [m["name"] for m in report["metrics"]]
    return [m for m in ("macro_f1", "accuracy") if m in known] or known[:2]


def in_words(metric: str) -> str:
    """A metric's name as people write it.

    >>> in_words("macro_f1"), in_words("exact_match")
    ('macro-F1', 'exact match')
    """
    return {"macro_f1": "macro-F1", "micro_f1": "micro-F1"}.get(metric, metric.replace("_", " "))


def report(outcome: Outcome) -> dict[str, Any]:
    """The figures of a report."""
    return _document(outcome, "report.json")


def card(outcome: Outcome) -> dict[str, Any]:
    """What a dataset says of how it was made."""
    return _document(outcome, "card.json")


def _document(outcome: Outcome, name: str) -> dict[str, Any]:
    import json

    loaded: dict[str, Any] = json.loads((outcome.artifact.path / name).read_bytes())
    return loaded


def _as_dict(outcome: Outcome) -> dict[str, Any]:
    return {
        "step": outcome.name,
        "reused": outcome.reused,
        "seconds": round(outcome.seconds, 3),
        "core_ns": outcome.core_ns,
        "kind": outcome.artifact.kind,
        "digest": outcome.artifact.digest,
        "path": str(outcome.artifact.path),
        "facts": dict(outcome.artifact.facts),
    }
