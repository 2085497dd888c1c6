"""The project file: TOML, read once, every problem reported at once with its line.

Sections are ``[verb.name]``. The layers, lowest first: the settings' defaults, the recipe, the project file, ``--set``.
"""

from __future__ import annotations

import json
import re
import tomllib
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from feilun.errors import FeilunError, ProjectError, did_you_mean
from feilun.pipeline import other_names
from feilun.pipeline.problems import Problems, line_numbers
from feilun.pipeline.steps import STEPS, Settings, Step

FILE = "feilun.toml"


@dataclass(frozen=True)
class Section:
    """One ``[verb.name]`` of a step: its settings, and what each input refers to."""

    step: Step
    name: str  # verb.name
    settings: Settings
    references: Mapping[str, str | tuple[str, ...]]
    line: int


@dataclass(frozen=True)
class Project:
    """What was declared. ``sections`` are steps; ``others`` are the settings of stages that are not steps."""

    name: str
    root: Path
    sections: Mapping[str, Section]
    others: Mapping[str, Settings]  # "bill", "relearn.reviews"

    def other(self, verb: str) -> dict[str, Settings]:
        """The named sections of one verb, by name."""
        return {k.split(".", 1)[1]: v for k, v in self.others.items() if k.startswith(verb + ".")}


def load(
    root: Path,
    others: Mapping[str, type[Settings]],
    changes: Sequence[str] = (),
    recipes: Path | None = None,
    *,
    look: Callable[[str], object] | None = None,
) -> Project:
    """Read ``root/feilun.toml``.

    Args:
        root: the project's folder.
        others: settings classes of stages that are not steps: ``{"bill": BillSettings, "relearn.*": RelearnSettings}``.
        changes: ``--set`` values, ``"finetune.reviews.epochs=2"``; the value is TOML.
        recipes: the folder with ``<verb>/<recipe>.toml``.
        look: raises an error for a reference to something outside that cannot be there. It is asked only where there
            are problems already, so that all are said at once; by itself a missing file spoils nothing but its steps.

    Raises:
        ProjectError: no file, not TOML, or any number of problems in it.
    """
    file, text, declared = _read(root)
    problems = Problems(file, line_numbers(text))
    for change in changes:
        _apply(declared, change, problems)
    name = _project_name(declared.pop("project", {}), problems) or root.name
    sections: dict[str, Section] = {}
    rest: dict[str, Settings] = {}
    for verb, body in declared.items():
        if verb in STEPS and STEPS[verb].declared:
            for part, values in _named(verb, body, problems):
                section = _section(STEPS[verb], part, values, problems, recipes)
                if section:
                    sections[section.name] = section
        elif verb in others:
            _keep(rest, verb, _validate(others[verb], body, [verb], problems))
        elif f"{verb}.*" in others:
            for part, values in _named(verb, body, problems):
                _keep(rest, f"{verb}.{part}", _validate(others[f"{verb}.*"], values, [verb, part], problems))
        else:
            known = [
                *(s.name for s in STEPS.values() if s.declared),
                *(o.removesuffix(".*") for o in others),
                "project",
            ]
            problems.add(f"there is no stage '{verb}'", [verb], did_you_mean(verb, known))
    broken = {f"{v}.{n}" for v, b in declared.items() if isinstance(b, dict) for n in b} - sections.keys()
    _check_references(sections, broken, problems)
    if problems.found and look is not None:
        _look_outside(sections, look, problems)
    problems.check()
    return Project(name, root, sections, rest)


def _read(root: Path) -> tuple[Path, str, dict[str, Any]]:
    file = root / FILE
    try:
        text = file.read_text("utf-8")
        return file, text, tomllib.loads(text)
    except FileNotFoundError as error:
        raise ProjectError(
            f"there is no {FILE} here", where=str(root), hint="begin one with: feilun init FOLDER"
        ) from error
    except UnicodeDecodeError as error:
        raise ProjectError(f"{FILE} is not UTF-8", where=f"{file}, byte {error.start}") from error
    except tomllib.TOMLDecodeError as error:
        raise ProjectError(f"{FILE} is not TOML: {error}", where=str(file)) from error


def _project_name(declared: Any, problems: Problems) -> str | None:
    if not isinstance(declared, dict) or not isinstance(declared.get("name"), str):
        problems.add("the project has no name", ["project"], 'begin with: [project] name = "reviews"')
        return None
    for unknown in sorted(set(declared) - {"name"}):
        problems.add(f"project has no setting '{unknown}'", ["project", unknown], did_you_mean(unknown, ["name"]))
    return str(declared["name"])


def _named(verb: str, body: Any, problems: Problems) -> list[tuple[str, dict[str, Any]]]:
    if isinstance(body, dict) and all(isinstance(v, dict) for v in body.values()):
        return list(body.items())
    problems.add(f"'{verb}' needs a name", [verb], f"write [{verb}.some-name]")
    return []


def _section(step: Step, name: str, values: dict[str, Any], problems: Problems, recipes: Path | None) -> Section | None:
    place = [step.name, name]
    references: dict[str, str | tuple[str, ...]] = {}
    values = dict(values)
    for needed in step.inputs:
        value = values.pop(needed.name, None)
        if value is None:
            if not (needed.optional or needed.many):
                problems.add(f"{step.name} needs '{needed.name}'", place, f'{needed.name} = "verb.name" or "catalog:…"')
        elif isinstance(value, str):
            references[needed.name] = (value,) if needed.many else value
        elif needed.many and isinstance(value, list) and all(isinstance(v, str) for v in value):
            references[needed.name] = tuple(value)
        else:
            kind = "a list of strings" if needed.many else "a string"
            problems.add(f"'{needed.name}' must be {kind}", [*place, needed.name])
    if "recipe" in values:
        values = _recipe(step.name, values.pop("recipe"), place, problems, recipes) | values
    if "name" in step.settings.model_fields:
        values.setdefault("name", name)
    names = tuple(i.name for i in step.inputs)
    settings = _validate(step.settings, values, place, problems, names)
    line = problems.lines.get(tuple(place), 1)
    return Section(step, ".".join(place), settings, references, line) if settings is not None else None


def _recipe(verb: str, name: Any, place: list[str], problems: Problems, recipes: Path | None) -> dict[str, Any]:
    known = {p.stem: p for p in (recipes / verb).glob("*.toml")} if recipes else {}
    if name in known:
        return tomllib.loads(known[name].read_text("utf-8"))
    hint = did_you_mean(str(name), known) or f"known: {', '.join(sorted(known)) or 'none'}"
    problems.add(f"{verb} has no recipe '{name}'", [*place, "recipe"], hint)
    return {}


def _validate(
    kind: type[Settings], values: Any, place: list[str], problems: Problems, more_names: tuple[str, ...] = ()
) -> Settings | None:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        for problem in error.errors():
            path = [*place, *(str(part) for part in problem["loc"])]
            if problem["type"] == "extra_forbidden":
                known = [*_fields_at(kind, problem["loc"]), *more_names, "recipe"]
                unknown = str(problem["loc"][-1])
                problems.add(f"{place[0]} has no setting '{unknown}'", path, other_names.hint(unknown, known))
            elif problem["type"] == "missing":
                problems.add(f"{place[0]} needs '{'.'.join(map(str, problem['loc']))}'", path)
            else:
                name = ".".join(map(str, problem["loc"]))
                given = json.dumps(problem["input"], default=str, ensure_ascii=False)
                message = problem["msg"].removeprefix("Value error, ")
                problems.add(
                    f"'{name}' cannot be {given[:60]}" if name else message, path, message[:1].lower() + message[1:]
                )
        return None


def _fields_at(kind: type[Settings], location: Sequence[int | str]) -> list[str]:
    """Names of the settings at the place of an unknown one, through nested settings where there are any."""
    for part in location[:-1]:
        field = kind.model_fields.get(str(part))
        if field is None:
            continue
        inner = [a for a in (field.annotation, *typing.get_args(field.annotation)) if isinstance(a, type)]
        kind = next((a for a in inner if issubclass(a, Settings)), kind)
    return list(kind.model_fields)


def _keep(rest: dict[str, Settings], name: str, settings: Settings | None) -> None:
    if settings is not None:
        rest[name] = settings


def _check_references(sections: Mapping[str, Section], broken: set[str], problems: Problems) -> None:
    graph: dict[str, list[str]] = {}
    for section in sections.values():
        for needed in section.step.inputs:
            given = section.references.get(needed.name, ())
            for reference in (given,) if isinstance(given, str) else given:
                if not is_internal(reference) or reference in broken:  # a broken section has been told already
                    continue
                place = [*section.name.split("."), needed.name]
                made = sections.get(reference)
                if made is None:
                    problems.add(f"nothing makes '{reference}'", place, did_you_mean(reference, sections))
                elif made.step.output is not needed.kind:
                    is_, wants = made.step.output.kind, needed.kind.kind
                    problems.add(f"'{reference}' makes a {is_}, '{needed.name}' needs a {wants}", place)
                else:
                    graph.setdefault(section.name, []).append(reference)
    done: set[str] = set()
    for name in graph:
        _find_cycle(name, graph, (), done, problems)


def _look_outside(sections: Mapping[str, Section], look: Callable[[str], object], problems: Problems) -> None:
    for section in sections.values():
        for name, given in section.references.items():
            for reference in (given,) if isinstance(given, str) else given:
                if is_internal(reference):
                    continue
                try:
                    look(reference)
                except FeilunError as error:
                    problems.add(error.what, [*section.name.split("."), name], error.hint)


def _find_cycle(
    name: str, graph: Mapping[str, list[str]], path: tuple[str, ...], done: set[str], problems: Problems
) -> None:
    if name in path:
        problems.add(f"the steps go in a circle: {' -> '.join((*path[path.index(name) :], name))}", name.split("."))
    elif name not in done:
        for parent in graph.get(name, []):
            _find_cycle(parent, graph, (*path, name), done, problems)
    done.add(name)


def is_internal(reference: str) -> bool:
    """Whether a reference names a section (``finetune.reviews``) and not something outside."""
    verb, _, name = reference.partition(".")
    return verb in STEPS and bool(re.fullmatch(r"[A-Za-z0-9_-]+", name))


def _apply(declared: dict[str, Any], change: str, problems: Problems) -> None:
    path, equals, value = change.partition("=")
    keys = path.strip().split(".")
    if not equals or len(keys) < 2:
        problems.add(f"--set '{change}' is not section.name.setting=value", [], "--set finetune.reviews.epochs=2")
        return
    try:
        parsed = tomllib.loads(f"x = {value}")["x"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()  # a bare word is meant as a string
    table = declared
    for key in keys[:-1]:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            problems.add(f"--set '{change}': '{key}' is not a section", [])
            return
    table[keys[-1]] = parsed
