"""What a project file requires of models, checked before anything is trained for it."""

from __future__ import annotations

import re

from feilun.errors import ProjectError, did_you_mean
from feilun.evaluate.settings import EvaluateSettings
from feilun.pipeline.kinds import Model
from feilun.pipeline.project import FILE, Project, Section
from feilun.tasks import metrics_known

_REQUIREMENT = re.compile(r"(?:(?P<domain>[^:\[]+)\.)?(?P<metric>[^.:\[]+)(?P<label>:.+|\[.+\])?", re.DOTALL)


def check(project: Project) -> None:
    """Whether every requirement of every ``[evaluate.NAME]`` can be measured, as far as the project file tells.

    Labels are not known before rows are read, nor are tasks and domains of what comes from outside: those are checked
    when the model has answered.

    Raises:
        ProjectError: a requirement names a figure that the model's task does not have, or a domain that none of the
            section's datasets is of.
    """
    for section in project.sections.values():
        if isinstance(section.settings, EvaluateSettings):
            for name in section.settings.require:
                _check(name, section, project)


def _check(name: str, section: Section, project: Project) -> None:
    where = f"{FILE}:{section.line}  [{section.name}] require: {name}"
    task = _task(section, project)
    known = metrics_known.possible(task)
    found = _REQUIREMENT.fullmatch(name)
    domain, metric, label = found.group("domain", "metric", "label") if found else (None, name, None)
    meant = metric + ("" if label is None else ":LABEL" if label[0] == ":" else "[LABEL]")
    if meant not in known:
        of = f"the task '{task}' has" if task else "there is"
        like = [one for one in known if ("LABEL" in one) == (label is not None)] or known
        hint = did_you_mean(meant, like) or f"there is {', '.join(known)}"
        raise ProjectError(f"{of} no figure '{meant}'", where=where, hint=hint)
    domains = _domains(section, project)
    if domain is not None and domains is not None and domain not in domains:
        hint = (
            did_you_mean(domain, domains) or f"the domains are {', '.join(domains)}; prepare's setting domain names one"
        )
        raise ProjectError(f"no dataset of {section.name} is of the domain '{domain}'", where=where, hint=hint)


def _task(section: Section, project: Project) -> str | None:
    """What the model that is asked was tuned for; None where another project or a hub would have to tell."""
    seen: Section | None = section
    while seen is not None:
        if isinstance(task := getattr(seen.settings, "task", None), str):
            return task
        wanted = next((i.name for i in seen.step.inputs if i.kind is Model), "")
        seen = project.sections.get(str(seen.references.get(wanted)))
    return None


def _domains(section: Section, project: Project) -> list[str] | None:
    """The domains of all datasets that are asked; None where one of them does not say."""
    given = section.references.get("examples", ())
    found = []
    for reference in (given,) if isinstance(given, str) else given:
        made = project.sections.get(reference)
        domain = getattr(made.settings, "domain", None) if made else None
        if not isinstance(domain, str):
            return None
        found.append(domain)
    return sorted(set(found))
