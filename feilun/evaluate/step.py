"""The step ``evaluate``: a model's figures on held-out rows, and the gate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from feilun.errors import DataError
from feilun.evaluate.settings import EvaluateSettings
from feilun.pipeline.kinds import Dataset, Model, Report
from feilun.pipeline.steps import Workspace, step

if TYPE_CHECKING:
    import polars as pl

    from feilun.evaluate.asking import Asked
    from feilun.evaluate.figures import Bootstrap
    from feilun.tasks.task import Task


@step("evaluate", version=3)
def evaluate(
    model: Model,
    examples: tuple[Dataset, ...],
    settings: EvaluateSettings,
    work: Workspace,
    *,
    against: Model | None = None,
    seeds: tuple[Model, ...] = (),
    outside: Dataset | None = None,
) -> Report:
    """Ask the model for every row of the split and compare with the truth, domain by domain.

    A missed requirement does not stop here: it is written down, and the release step refuses.

    Args:
        model: of any task and format; it is asked as it is, in the precision in which it would answer.
        examples: one dataset or several; their column ``domain`` names the groups.
        against: another model, compared on the same rows by paired tests.
        seeds: models that differ from this one in their seed: how stable are the figures?
        outside: rows of another kind: does the model notice that they are?

    Returns:
        ``report.json`` (figures with 95 % intervals, for each domain and for all rows), ``report.html``, and the facts
        ``passed``, ``n`` and each metric's value.

    Raises:
        DataError: no row in the split, one with a label that the model does not know, or no column of the task.
        SettingError: a requirement names a metric that the task does not have.
    """
    from feilun import tasks
    from feilun.evaluate import asking, figures, gate, page
    from feilun.store.artifacts import canonical

    how = figures.Bootstrap(settings.resamples, settings.seed)
    frame = _rows(examples, model, tasks.of(model), settings.split)
    work.record("asking", 0, frame.height)
    asked = asking.ask(model, frame)
    work.record("asking", frame.height, frame.height)
    place = frame["domain"].to_numpy()
    whole = _figures(asked, None, how)
    domains = {name: _figures(asked, place == name, how) for name in sorted(frame["domain"].unique())}
    lower = frozenset(m.name for m in asked.metrics if not m.higher_is_better)
    checks = gate.check(settings.require, whole, domains, lower)
    passed = all(c["passed"] for c in checks)
    report: dict[str, Any] = {
        "model": model.digest,
        "task": model.facts["task"],
        "examples": [d.digest for d in examples],
        "split": settings.split,
        "labels": list(asked.labels),
        "intervals": f"95 %, bootstrap of {settings.resamples} resamples, seed {settings.seed}",
        "metrics": figures.describe(asked.metrics, whole),
        "passed": passed,
        "checks": checks,
        "all": whole,
        "domains": domains,
        "lengths": figures.by_length(frame["text"].to_list(), asked.metrics, how),
        **_more(asked, settings, how, examples=examples, against=against, seeds=seeds, outside=outside),
    }
    values = {m["name"]: whole[m["name"]]["value"] for m in report["metrics"]}
    work.record("measured", 1, 1, **values)
    (work.folder / "report.json").write_bytes(canonical(report))
    (work.folder / "report.html").write_text(page.render(report), "utf-8")
    parents = [p for p in (model, *examples, against, *seeds, outside) if p is not None]
    return work.finish(Report, parents, **values, passed=passed, n=whole["n"])


def _rows(examples: tuple[Dataset, ...], model: Model, task: Task, split: str) -> pl.DataFrame:
    """The rows of a split, each once, with the columns that all datasets have."""
    import polars as pl

    from feilun import datasets
    from feilun.tasks import unseen

    frames = [datasets.read(d, split) for d in examples]
    for dataset, frame in zip(examples, frames, strict=True):
        datasets.require(frame, task.COLUMNS, f"dataset {dataset.short}")
        known = list(model.facts.get("labels") or ())
        if known and (strange := unseen.find(frame, task.COLUMNS, known)) is not None:
            rows = "1 such row" if strange.rows == 1 else f"{strange.rows} such rows"
            raise DataError(
                f"the model does not know the label '{strange.label}' ({rows})",
                where=f"dataset {dataset.short}, split {split}, row {strange.row}, column {strange.column}",
                hint="tune it with training rows of that label, or leave those rows out",
            )
    shared = [c for c in frames[0].columns if all(c in f.columns for f in frames)] if frames else []
    found = pl.concat([f.select(shared) for f in frames]) if frames else pl.DataFrame({"id": []})
    if found.is_empty():
        raise DataError(f"there is no row of the split '{split}' to ask", where="evaluate: examples")
    return found.unique("id", maintain_order=True)


def _figures(asked: Asked, mask: Any, how: Bootstrap) -> dict[str, Any]:
    """What the report says of all rows, or of those under a mask (N,)."""
    from feilun.evaluate import figures, labels

    counted = asked.metrics if mask is None else figures.part(asked.metrics, mask)
    found: dict[str, Any] = {"n": asked.frame.height if mask is None else int(mask.sum())}
    found |= figures.of(counted, how)
    scores = asked.probabilities
    if scores is not None:
        rows = slice(None) if mask is None else mask
        found |= labels.details(asked.truth[rows], scores[rows], asked.labels, how)
    return found


def _more(
    asked: Asked,
    settings: EvaluateSettings,
    how: Bootstrap,
    *,
    examples: tuple[Dataset, ...],
    against: Model | None,
    seeds: tuple[Model, ...],
    outside: Dataset | None,
) -> dict[str, Any]:
    """The parts of the report that are there when they are asked for."""
    import polars as pl

    from feilun import datasets
    from feilun.evaluate import asking, compared, efficiency, labels, robustness
    from feilun.evaluate import outside as foreign

    found: dict[str, Any] = {}
    if (scores := asked.probabilities) is not None:
        found["temperature"] = labels.temperature(asked.truth, scores, settings.seed)
    if against is not None:
        found["against"] = compared.against(asked, asking.ask(against, asked.frame), how)
    if seeds:
        found["seeds"] = compared.stability([asked, *(asking.ask(m, asked.frame) for m in seeds)])
    if settings.robustness:
        found["robustness"] = robustness.measure(asked, how)
    if outside is not None:
        train = pl.concat([datasets.read(d, "train") for d in examples], how="diagonal")
        found["outside"] = foreign.detect(asked, datasets.read(outside, settings.split), train, how)
    if settings.efficiency:
        found["efficiency"] = efficiency.measure(asked)
    return found
