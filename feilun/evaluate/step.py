"""The step ``evaluate``: a model's figures on held-out rows, and the gate."""

from __future__ import annotations

from feilun.errors import DataError
from feilun.evaluate.settings import EvaluateSettings
from feilun.pipeline.kinds import Dataset, Model, Report
from feilun.pipeline.steps import Workspace, step


@step("evaluate", version=1)
def evaluate(model: Model, examples: tuple[Dataset, ...], settings: EvaluateSettings, work: Workspace) -> Report:
    """Ask the model for every row of the split and compare, domain by domain.

    A missed requirement does not stop here: it is written down, and the release step refuses.

    Args:
        model: of any format; it is asked as it is, in the precision in which it would answer.
        examples: one dataset or several; their column ``domain`` names the groups.

    Returns:
        ``report.json`` (figures with 95 % intervals, for each domain and for all rows), ``report.html``, and the fact
        ``passed``.

    Raises:
        DataError: no row in the split, or one with a label that the model does not know.
    """
    import polars as pl

    from feilun import datasets, models
    from feilun.evaluate import figures, gate, page
    from feilun.store.artifacts import canonical
    from feilun.tasks import metrics

    frame = pl.concat([datasets.read(d, settings.split) for d in examples]).unique("id", maintain_order=True)
    if frame.is_empty():
        raise DataError(f"there is no row of the split '{settings.split}' to ask", where="evaluate: examples")
    work.record("asking", 0, frame.height)
    answers = models.predict(model, frame["text"].to_list())
    work.record("asking", frame.height, frame.height)

    truth = metrics.numbers(frame["label"].to_list(), answers.classes)
    place = frame["domain"].to_numpy()
    how = {"resamples": settings.resamples, "seed": settings.seed}
    whole = figures.of(truth, answers.scores, answers.classes, **how)
    domains = {
        name: figures.of(truth[place == name], answers.scores[place == name], answers.classes, **how)
        for name in sorted(frame["domain"].unique())
    }
    checks = gate.check(settings.require, whole, domains)
    passed = all(c["passed"] for c in checks)
    report = {
        "model": model.digest,
        "examples": [d.digest for d in examples],
        "split": settings.split,
        "labels": list(answers.classes),
        "intervals": f"95 %, bootstrap of {settings.resamples} resamples, seed {settings.seed}",
        "passed": passed,
        "checks": checks,
        "all": whole,
        "domains": domains,
    }
    work.record("measured", 1, 1, macro_f1=whole["macro_f1"]["value"], accuracy=whole["accuracy"]["value"])
    (work.folder / "report.json").write_bytes(canonical(report))
    (work.folder / "report.html").write_text(page.render(report), "utf-8")
    return work.finish(
        Report,
        [model, *examples],
        passed=passed,
        n=whole["n"],
        macro_f1=whole["macro_f1"]["value"],
        accuracy=whole["accuracy"]["value"],
    )
