"""A model's card in the Hugging Face form (README.md with YAML in front), written from lineage and never by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from feilun.errors import ArtifactError, FeilunError
from feilun.models import snippets
from feilun.pipeline.kinds import Dataset, Model, Report, Source
from feilun.pipeline.steps import STEPS, Settings, Workspace
from feilun.store.artifacts import Artifact, ArtifactStore

FILE = "README.md"
PIPELINES = {  # what the hub calls a task
    "classify": "text-classification",
    "multilabel": "text-classification",
    "regress": "text-classification",
    "pair": "text-classification",
    "tag": "token-classification",
    "extract": "question-answering",
    "embed": "sentence-similarity",
    "rank": "text-ranking",
    "generate": "text-generation",
    "prefer": "text-generation",
}
LIBRARIES = {"safetensors": "transformers", "openvino": "openvino", "onnx": "onnx"}
ALWAYS = ("batch_tokens", "context", "epochs", "learning_rate", "method", "schedule", "seed", "task", "warmup")
MOST = 40  # labels that are listed


@dataclass(frozen=True)
class Told:
    """What the card is of: facts of the model, what it was made from, with which settings, and its reports.

    ``digest`` is None while the model is being made; then there can be no report yet either.
    """

    facts: Mapping[str, Any]
    parents: tuple[Artifact, ...]
    settings: Mapping[str, Any]
    digest: str | None = None
    reports: tuple[Report, ...] = ()
    trained: Mapping[str, Any] = field(default_factory=dict)  # what the run that made it recorded


def of(store: ArtifactStore, model: Model) -> Told:
    """What is known of a finished model: its newest run's settings, and the reports on it and on what it became.

    Its own reports come first; those on its compressed forms follow.
    """
    import sqlalchemy as sa

    from feilun.store import lineage, tables

    columns = tables.runs.c
    query = sa.select(columns.settings, columns.metrics).where(columns.output == model.digest)
    with store.database.read() as connection:
        run = connection.execute(query.order_by(columns.finished_at.desc()).limit(1)).first()
        after = [link.digest for link in lineage.descendants(connection, model.digest)]
    children = [store.get(digest) for digest in after[1:]]
    forms = [model.digest, *(c.digest for c in children if isinstance(c, Model) and "quantise" in c.facts)]
    said = {c.digest: _said(c).get("model") for c in children if isinstance(c, Report)}
    reports = [c for form in forms for c in children if isinstance(c, Report) and said[c.digest] == form]
    parents = tuple(store.get(digest) for digest in model.parents)
    settings, trained = (json.loads(run.settings), json.loads(run.metrics)) if run else ({}, {})
    return Told(model.facts, parents, settings, model.digest, tuple(reports), trained)


def finish(work: Workspace, parents: Sequence[Artifact], settings: Settings, **facts: Any) -> Model:
    """As ``Workspace.finish`` for a model, with its card in the folder."""
    told = Told(facts, tuple(parents), settings.model_dump(mode="json"))
    write(work.store, work.folder, told)
    return work.finish(Model, parents, **facts)


def write(store: ArtifactStore, folder: Path, told: Told) -> None:
    """Write the card into a model's folder."""
    model_type = str(_read(folder / "config.json").get("model_type", ""))
    (folder / FILE).write_text(render(store, told, model_type), "utf-8")


def render(store: ArtifactStore, told: Told, model_type: str = "") -> str:
    """The card's text; the same lineage gives the same text. ``model_type``: as the model's config.json has it."""
    line = list(_lineage(store, told.parents))
    root = next((m for m in reversed(line) if isinstance(m, Model) and not m.parents), None)
    parts = [
        f"---\n{_front(told, line, root).strip()}\n---",
        f"# {_title(told, root)}",
        "Written by feilun from the lineage of this model; nothing here was typed by hand.",
        "## What it does",
        _what(told, root),
        "## Training data",
        _data(line),
        "## Training",
        _training(told),
        "## Evaluation",
        _evaluation(told),
        "## Limits",
        _limits(told, line),
        "## How to load it",
        _usage(told, model_type),
        "## Lineage",
        _digests(told, line),
    ]
    return "\n\n".join(parts) + "\n"


def _lineage(store: ArtifactStore, parents: Sequence[Artifact]) -> Iterator[Artifact]:
    """All that stands behind a model, nearest first, each once; what is no longer in the store is left out."""
    seen: set[str] = set()
    wave = list(parents)
    while wave:
        following: list[Artifact] = []
        for artifact in wave:
            if artifact.digest in seen:
                continue
            seen.add(artifact.digest)
            yield artifact
            for digest in artifact.parents:
                try:
                    following.append(store.get(digest))
                except ArtifactError:
                    continue
        wave = following


def _front(told: Told, line: Sequence[Artifact], root: Model | None) -> str:
    """The YAML that the hub reads; only what is known and what the hub has a word for."""
    from huggingface_hub import EvalResult, ModelCardData

    pipeline = PIPELINES.get(str(told.facts.get("task")))
    own = [said for said in map(_said, told.reports) if said.get("model") == told.digest]  # not of what it became
    results = [
        EvalResult(
            task_type=pipeline or "other",
            dataset_type="feilun",
            dataset_name=domain,
            dataset_config=config,  # what tells results apart on the hub
            dataset_split=said["split"],
            metric_type=metric["name"],
            metric_value=round(figures[metric["name"]]["value"], 6),
        )
        for said in own[:1]
        for domain, config, figures in _groups(said)
        for metric in said["metrics"]
        if metric["name"] in figures
    ]
    data = ModelCardData(
        license=_licence(root),
        language=root.facts.get("language") if root else None,
        base_model=_hub_name(root),
        pipeline_tag=pipeline,
        library_name=LIBRARIES.get(str(told.facts.get("format"))),
        tags=["feilun", *([str(told.facts["task"])] if "task" in told.facts else [])],
        datasets=[name for d in line if isinstance(d, Source) and (name := _hub_name(d))] or None,
        metrics=[m["name"] for m in own[0]["metrics"]] if own else None,
        model_name=_title(told, root),
        eval_results=results or None,
    )
    return str(data.to_yaml())


def _title(told: Told, root: Model | None) -> str:
    name = str(root.facts.get("title") or root.facts.get("origin") or root.short) if root else "a model"
    task = told.facts.get("task")
    return _plain(f"{name.split(':')[0]}, tuned to {task}" if task else name)


def _what(told: Told, root: Model | None) -> str:
    facts = told.facts
    base = _plain(str(root.facts.get("title") or root.facts.get("origin") or root.short)) if root else "unknown"
    rows = [f"- Task: {facts.get('task', 'none yet')}", f"- Base: {base}", f"- Format: {facts.get('format')}"]
    labels = list(facts.get("labels") or ())
    if labels:
        shown = ", ".join(_code(label) for label in labels[:MOST])
        rows.append(f"- Labels ({len(labels)}): {shown}{', …' if len(labels) > MOST else ''}")
    if "context" in facts:
        rows.append(f"- Reads the first {facts['context']} tokens of a text; the rest is cut off.")
    if facts.get("quantise") not in (None, "none"):
        change = facts.get("disagreement")
        told_change = f"; {change:.2%} of the answers differ from the model before" if change is not None else ""
        rows.append(f"- Quantised: {facts['quantise']}{told_change}")
    return "\n".join(rows)


def _data(line: Sequence[Artifact]) -> str:
    found = [d for d in line if isinstance(d, Dataset)]
    if not found:
        return "None of which a record is left."
    parts = []
    for dataset in found:
        card = _read(dataset.path / "card.json")
        splits = dataset.facts.get("splits", {})
        title = _plain(str(card.get("title") or card.get("origin") or "rows of this project"))
        rows = ", ".join(f"{count:,} {split}" for split, count in splits.items())
        lines = [f"- **{title}** ({dataset.short}): {rows or 'rows not counted'}"]
        licence = card.get("licence") or dataset.facts.get("licence")
        lines.append(f"  - Licence: {_plain(str(licence)) if licence else 'not stated'}")
        if "contributors" in card:
            named = card["contributors"]
            lines.append(f"  - Contributors: {'not stated' if named is None else f'{named:,}'}")
        removed = {why.replace("_", " "): n for why, n in card.get("removed", {}).items() if n}
        if removed:
            lines.append("  - Left out: " + ", ".join(f"{n:,} {why}" for why, n in removed.items()))
        parts.append("\n".join(lines))
    return "\n".join(parts)


def _training(told: Told) -> str:
    chosen = {k: v for k, v in _telling(told.settings).items() if isinstance(v, str | int | float | bool) and v != ""}
    if not chosen:
        return _course(told) or "No settings are known."
    table = _table(["setting", "value"], [[_code(k), _code(v)] for k, v in sorted(chosen.items())])
    return f"{_course(told)}Settings that are not listed are as they come.\n\n{table}"


def _telling(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that every training has, and those that are not as they come; lists as one text."""
    kinds = (step.settings.model_fields for step in STEPS.values())
    fields: Mapping[str, Any] = next((kind for kind in kinds if kind.keys() == settings.keys()), {})
    found = {}
    for name, value in settings.items():
        given = tuple(value) if isinstance(value, list) else value
        if name in ALWAYS or name not in fields or given != fields[name].get_default(call_default_factory=True):
            found[name] = ", ".join(map(str, given)) if isinstance(given, tuple) else given
    return found


def _course(told: Told) -> str:
    """How it went, where a run says so: a card in the folder was written before its run was recorded."""
    facts, run = told.facts, told.trained
    if not {"method", "trained", "rows"} <= facts.keys():
        return ""
    rows = [f"- Method: {facts['method']}, which trains {100 * facts['trained']:.3g} % of the weights"]
    rows.append(f"- Rows learned from: {facts['rows']:,}")
    if "epochs_run" in run:
        early = ", stopped early" if run["stopped_early"] else ""
        rows.append(f"- Epochs: {run['epochs_run']:g} of {run['epochs']}{early}; {run['steps_run']:,} steps")
    if "best_step" in run:
        best = f"{run['best_held_out']:.4g} at step {run['best_step']:,}, whose weights are kept"
        rows.append(f"- Best held-out {_plain(str(run['watched']).replace('_', ' '))}: {best}")
    return "\n".join(rows) + "\n\n"


def _evaluation(told: Told) -> str:
    if not told.reports:
        return "Not evaluated when this card was written; `feilun export` writes it anew with every report there is."
    parts = []
    for report in told.reports:
        said = _said(report)
        groups = _groups(said)[1:] if len(said["domains"]) == 1 else _groups(said)
        names = [m["name"] for m in said["metrics"]]
        rows = [[_plain(name), f"{g['n']:,}", *(_figure(g.get(m)) for m in names)] for name, _, g in groups]
        verdict = {True: "passed", False: "missed"}[said["passed"]] if said["checks"] else "no gate"
        of_other = (
            "" if said.get("model") == told.digest else f" on {str(said.get('model'))[:12]}, made from this model"
        )
        words = f"Report {report.short}{of_other}, split {said['split']}, {said['intervals']}; {verdict}."
        parts.append(words + "\n\n" + _table(["rows", "n", *map(_plain, names)], rows))
    return "\n\n".join(parts)


def _groups(said: Mapping[str, Any]) -> list[tuple[str, str | None, Any]]:
    """All rows and each domain: a name, a config that no other has, and the figures; a domain may be called "all"."""
    return [("all rows", None, said["all"]), *((name, name, figures) for name, figures in said["domains"].items())]


def _limits(told: Told, line: Sequence[Artifact]) -> str:
    asked = "record whose columns fit" if told.facts.get("format") == "onnx" else "text"
    rows = [f"- It answers every {asked}, also of a kind that it never saw."]
    if not told.reports:
        rows.append("- Nothing is known here of how good it is.")
    elif said := next((s for s in map(_said, told.reports) if s.get("outside", {}).get("ways")), None):
        best = max(said["outside"]["ways"].items(), key=lambda way: way[1]["auroc"]["value"])
        rows.append(f"- Texts of another kind are seen best by its {best[0]}: AUROC {_figure(best[1]['auroc'])}.")
    cards = [_read(d.path / "card.json") for d in line if isinstance(d, Dataset)]
    if any("contributors" in card and (card["contributors"] or 0) <= 1 for card in cards):
        rows.append("- Some of its training rows name no contributor, so nobody's rows can be told apart there.")
    return "\n".join(rows)


def _usage(told: Told, model_type: str) -> str:
    if told.facts.get("format") == "onnx":
        return (
            f'```python\n{snippets.TABLE}```\n\nWith feilun, `model = "this-folder"` in `[serve.NAME]` answers with it.'
        )
    back = '`base = "this-folder"` takes the network and its head back, `feilun ask` asks it.'
    code = snippets.of(told.facts, model_type, words=int(told.settings.get("answer_tokens", 128)))
    if code is None:
        return f"Only feilun can answer with it: what its method learned is not in the weights themselves. There {back}"
    whole = f"```python\n{code}```"
    return whole if told.facts.get("format") == "openvino" else f"{whole}\n\nWith feilun, {back}"


def _digests(told: Told, line: Sequence[Artifact]) -> str:
    own = [["this model", "model", told.digest]] if told.digest else []
    rows = [["behind it", a.kind, a.digest] for a in line] + [["report", r.kind, r.digest] for r in told.reports]
    return _table(["", "kind", "sha256"], [[a, b, _code(c)] for a, b, c in own + rows])


def _said(report: Report) -> dict[str, Any]:
    return {"metrics": [], "domains": {}, "checks": [], **_read(report.path / "report.json")}


def _read(place: Path) -> dict[str, Any]:
    try:
        found = json.loads(place.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _licence(root: Model | None) -> str | None:
    """As the hub spells licences: in lower case, with hyphens."""
    named = str(root.facts.get("licence") or "") if root else ""
    known = re.fullmatch(r"[A-Za-z][A-Za-z0-9. -]{1,30}", named.strip())
    return named.strip().lower().replace(" ", "-") if known else None


def _hub_name(artifact: Artifact | None) -> str | None:
    """``org/name`` on the hub, where an artefact that came from outside is known to be there."""
    from feilun.catalog import hub
    from feilun.catalog.entries import entry

    scheme, _, rest = str(artifact.facts.get("origin", "") if artifact else "").partition(":")
    try:
        if scheme == "hf":
            return hub.parse(rest)[0]
        if scheme == "catalog":
            return next((s.hub for s in entry(rest.partition("/")[0]).sources if s.hub), None)
    except FeilunError:  # an entry that this version of the catalogue no longer has
        return None
    return None


def _figure(figure: Mapping[str, Any] | None) -> str:
    if figure is None:
        return "-"
    known = figure["low"] is not None
    return f"{figure['value']:.3f}" + (f" [{figure['low']:.3f}, {figure['high']:.3f}]" if known else "")


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in row) + " |" for row in lines)


def _plain(text: str) -> str:
    """Text from outside in a line of Markdown: no markup, no new line, no cell of a table (RELIABILITY 51)."""
    return re.sub(r"([\\`*_{}\[\]<>()#!|~])", r"\\\1", " ".join(text.split()))


def _code(value: Any) -> str:
    """A value as code; a backtick or a bar in it is shown as another sign, so that it stays where it is."""
    return "`" + (" ".join(str(value).split()).replace("`", "ˋ").replace("|", "∣") or " ") + "`"
