"""A model that passed its gate becomes a release."""

from __future__ import annotations

from feilun.errors import StepError
from feilun.pipeline.kinds import Model, Release, Report
from feilun.pipeline.steps import Workspace, step
from feilun.serve import release
from feilun.serve.settings import ServeSettings

ANSWERED = (  # the tasks whose answers have a route and a meter
    *("classify", "embed", "extract", "generate", "multilabel", "pair", "predict", "prefer", "rank", "regress"),
    *("similarity", "tag"),
)


@step("serve", version=1)
def serve(model: Model, reports: tuple[Report, ...], settings: ServeSettings, work: Workspace) -> Release:
    """Seal a model with the probes that prove, wherever it is loaded, that it is this one.

    Args:
        model: a compressed model, as the gateway will run it.
        reports: gates; each must have passed.

    Raises:
        StepError: a gate refused the model, the gateway has no route for its task, no engine runs its format, or the
            release is its own fallback.
    """
    for report in reports:
        if not report.facts.get("passed", True):
            raise StepError(
                f"the gate refused the model: {'; '.join(report.missed())}",
                where=f"report {report.short}",
                hint="feilun run says where the page with all figures lies; what misses its gate is not released",
            )
    task = model.facts.get("task")
    if task not in ANSWERED:
        raise StepError(
            f"the gateway does not answer the task '{task}' yet" if task else "the model was not tuned for a task",
            where=model.short,
            hint=f"it answers {', '.join(ANSWERED)}; others answer in Python: feilun.tasks.ask, or export the model",
            code="task",
        )
    if settings.name in settings.fallback:
        raise StepError(f"'{settings.name}' cannot answer in its own place", hint="leave it out of fallback")
    engine = release.open_engine(model, threads=1)
    release.ask_once(task, engine)
    probes = release.probes_of(engine, settings.probes)
    work.record("probes", 0, len(probes))
    release.write(work.folder, settings.name, model, engine.labels, release.probe(engine, probes))
    facts = {"name": settings.name, "task": task, "labels": sorted(engine.labels)}
    if settings.fallback:
        facts["fallback"] = list(settings.fallback)
    if settings.harmless:
        facts["harmless"] = list(settings.harmless)
    return work.finish(Release, parents=[model, *reports], **facts)
