"""``feilun run``: the steps of the project whose result is not known yet."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from feilun.cli.options import HERE, Json, Root, Set, open_wheel
from feilun.show import interval, print_json, print_table, progress, say

if TYPE_CHECKING:
    from collections.abc import Mapping

    from feilun.pipeline.execute import Outcome
    from feilun.pipeline.plan import Plan
    from feilun.store.artifacts import Artifact

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
    from rich.markup import escape

    facts = outcome.artifact.facts
    if outcome.artifact.kind == "dataset":
        kept = f"{facts['rows']:,} rows ({escape(_labels(facts))})"
        return f"{kept}; {left_out(card(outcome).get('removed', {}))}, see {outcome.artifact.path / 'card.json'}"
    if outcome.artifact.kind == "report":
        said = report(outcome)
        metric = chosen(said)[0]
        figures = "; ".join(
            f"{name} {in_words(metric)} {interval(d[metric])}" for name, d in said["domains"].items() if metric in d
        )
        return f"{_verdict(outcome.artifact, said)}: {escape(figures)}; {outcome.artifact.path / 'report.html'}"
    if outcome.artifact.kind == "model" and "method" in facts and "epochs_run" in outcome.metrics:
        return escape(trained(facts, outcome.metrics))
    return ""


def left_out(removed: Mapping[str, int]) -> str:
    """How many rows, and each reason: no row is lost quietly.

    >>> left_out({"too_short": 0, "near_duplicates": 12, "exact_duplicates": 1}), left_out({})
    ('13 left out: 12 near duplicates, 1 exact duplicates', '0 left out')
    """
    reasons = sorted(((n, why.replace("_", " ")) for why, n in removed.items() if n), reverse=True)
    told = f"{sum(removed.values()):,} left out"
    return f"{told}: {', '.join(f'{n:,} {why}' for n, why in reasons)}" if reasons else told


def _verdict(artifact: Artifact, said: dict[str, Any]) -> str:
    """Where a gate refused, each check that failed; a report that requires nothing cannot be passed."""
    from rich.markup import escape

    from feilun.pipeline.kinds import Report

    if not said["checks"]:
        return "measured"
    if artifact.facts["passed"] or not isinstance(artifact, Report):
        return "passed"
    return f"[red]refused[/red] ({escape('; '.join(artifact.missed()))})"


def trained(facts: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """What a training was: the method, the share of the weights, how long, and where it was best."""
    parts = [f"{facts['method']}, {100 * facts['trained']:.3g} % of the weights, {facts['rows']:,} rows"]
    epochs = metrics["epochs"]
    if metrics["stopped_early"]:
        parts.append(f"stopped after {metrics['epochs_run']:g} of {epochs} epochs")
    else:
        parts.append(f"{epochs} epoch{'' if epochs == 1 else 's'}")
    if "best_step" in metrics:
        name = in_words(metrics["watched"])
        parts.append(f"best held-out {name} {metrics['best_held_out']:.3g} at step {metrics['best_step']:,}")
    else:
        parts.append(f"loss {metrics['last_loss']:.3g}")
    return ", ".join(parts)


def _labels(facts: Mapping[str, Any]) -> str:
    """A dataset's labels, or how many; of one without any, how it is split.

    >>> _labels({"labels": ["bad", "good"]}), _labels({"labels": [], "splits": {"train": 8, "test": 2}})
    ('bad, good', '8 train, 2 test')
    """
    if not facts["labels"]:
        return ", ".join(f"{count:,} {split}" for split, count in facts["splits"].items())
    return ", ".join(facts["labels"]) if len(facts["labels"]) <= MOST_LABELS else f"{len(facts['labels'])} labels"


def chosen(report: dict[str, Any]) -> list[str]:
    """The one or two metrics of a report that a line or a table tells; models are chosen by the first."""
    return [m["name"] for m in report["metrics"]][:2]


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
