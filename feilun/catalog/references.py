"""From a reference in the project file to a folder of checked files and the facts about them."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from feilun.catalog import cache, content, download, hub, local, sql
from feilun.catalog.entries import Entry, File, entry
from feilun.catalog.sources import obtain
from feilun.errors import ProjectError, did_you_mean
from feilun.store.artifacts import Artifact, canonical

SCHEMES = ("catalog", "hf", "http", "https", "sql")
VERSION = 2  # raised when the same reference would be imported as something else


@dataclass(frozen=True)
class Fetched:
    """Files to import as one artefact.

    ``files`` is a new folder that the caller moves or removes; ``facts`` are the same whenever the reference is fetched
    again; ``pinned`` says that the reference itself fixes the bytes.
    """

    files: Path
    facts: dict[str, Any]
    pinned: bool


def fetch(reference: str, kind: type[Artifact], *, root: Path) -> Fetched:
    """Get what ``reference`` names.

    Args:
        reference: ``catalog:NAME[/PART]``, ``hf:org/name[@revision][/file]``, ``https://...#sha256=...``,
            ``sql:ENV_VAR:SELECT ...``, or a path relative to ``root``.
        kind: ``Source`` (one file of rows) or ``Model`` (weights, settings and tokenizer).
        root: the project's folder.

    Raises:
        ProjectError: the reference cannot be understood, or names the wrong kind.
        UnavailableError: what it names cannot be reached.
        ArtifactError: what came is not what was pinned, or is unsafe to load.
    """
    _check_kind(reference, kind)
    scheme, rest = split(reference)
    files = cache.new_folder()
    try:
        facts, pinned = _READERS[scheme](rest, kind.kind, root, files)
        for file in sorted(found for found in files.rglob("*") if found.is_file()):
            content.check(file)
    except BaseException:
        shutil.rmtree(files)
        raise
    return Fetched(files, facts, pinned)


def identity(reference: str, root: Path) -> str | None:
    """A name for the content that ``reference`` stands for now, cheap to get; None when only fetching can tell.

    Raises:
        ProjectError: the reference cannot be understood, or the file it names is not there.
    """
    scheme, rest = split(reference)
    if scheme == "catalog":
        found, part = _entry(rest)
        pins = [file.sha256 for file in found.choose(part)]
        return _name("catalog", *pins, canonical(_catalog_facts(rest)).decode())
    if scheme == "hf":
        return _name("hf", rest) if hub.is_commit(hub.parse(rest)[1]) else None
    if scheme in ("http", "https"):
        return _name("url", *_pinned_address(reference))
    if scheme == "sql":
        sql.parse(rest)
        return None
    return _name("path", rest, *local.fingerprint(local.find(rest, root)))


def check(reference: str, root: Path) -> None:
    """Look whether ``reference`` can be there, as far as that costs nothing: no file is read and nobody is asked.

    Raises:
        ProjectError: the reference cannot be understood, the catalogue has no such entry, or the file is not there.
    """
    scheme, rest = split(reference)
    if scheme == "path":
        local.find(rest, root)
    elif scheme == "catalog":
        found, part = _entry(rest)
        found.choose(part)
    else:
        identity(reference, root)


def split(reference: str) -> tuple[str, str]:
    """The scheme ("path" for none) and what follows it.

    >>> split("catalog:vader-reviews/films"), split("data/rows.csv")
    (('catalog', 'vader-reviews/films'), ('path', 'data/rows.csv'))
    """
    scheme, mark, rest = reference.partition(":")
    if mark and scheme in ("http", "https"):
        return scheme, reference
    if mark and scheme in SCHEMES:
        return scheme, rest
    if mark and re.fullmatch(r"[A-Za-z][A-Za-z0-9+]{2,}", scheme):
        hint = did_you_mean(scheme, SCHEMES) or f"known: {', '.join(s + ':' for s in SCHEMES)} or a path"
        raise ProjectError(f"'{scheme}:' is not a way to name data or a model", where=reference[:120], hint=hint)
    return "path", reference


def _check_kind(reference: str, kind: type[Artifact]) -> None:
    if kind.kind in ("source", "model"):
        return
    hint = None
    if kind.kind == "dataset":
        hint = f'prepare it first: [prepare.NAME] with source = "{reference[:60]}", then "prepare.NAME" here'
    raise ProjectError(f"a {kind.kind} cannot come from outside", where=reference[:120], hint=hint)


def _entry(rest: str) -> tuple[Entry, str | None]:
    name, _, part = rest.partition("/")
    return entry(name), part or None


def _catalog_facts(rest: str) -> dict[str, Any]:
    found, part = _entry(rest)
    files = _named(found.choose(part))
    whole = len(files) > 1 and files[0].part
    origin = "catalog:" + found.name + (f"/{part if whole else files[0].part}" if files[0].part else "")
    facts = {"title": found.title, "licence": found.licence, "origin": origin, **found.facts}
    if whole:
        own = {f.name: {**f.facts, "origin": f"catalog:{found.name}/{f.part}"} for f in files}
        return {**facts, "files": own}
    facts |= files[0].facts if len(files) == 1 else {}
    facts.pop("values", None)  # what tells the files of several parts apart says nothing of one
    return facts


def _named(files: Sequence[File]) -> list[File]:
    """Files of several parts under names that differ, for each part calls its rows the same."""
    if len(files) == 1 or not files[0].part:
        return list(files)
    return [file.model_copy(update={"name": f"{file.part}{Path(file.name).suffix}"}) for file in files]


def _from_catalog(rest: str, kind: str, root: Path, files: Path) -> tuple[dict[str, Any], bool]:
    found, part = _entry(rest)
    if found.kind != kind:
        raise ProjectError(f"catalog:{found.name} is a {found.kind}, a {kind} is needed here")
    obtain(found, _named(found.choose(part)), root, files)
    return _catalog_facts(rest), True


def _from_hub(rest: str, kind: str, root: Path, files: Path) -> tuple[dict[str, Any], bool]:
    repository, revision, file = hub.parse(rest)
    patterns = [file] if file else list(local.MODEL_PATTERNS if kind == "model" else local.SOURCE_PATTERNS)
    folder = hub.snapshot(repository, revision, patterns, dataset=kind == "source")
    place = folder / file if file else local.only_file(folder) if kind == "source" else folder
    return {**local.take(place, kind, files), "origin": f"hf:{rest}"}, hub.is_commit(revision)


def _from_url(url: str, kind: str, root: Path, files: Path) -> tuple[dict[str, Any], bool]:
    if kind == "model":
        raise ProjectError("a model is a folder of files, not one address", where=url, hint="use hf:org/name or a path")
    address, pin = _pinned_address(url)
    name = Path(urlsplit(address).path).name
    local.check_suffix(name, url)
    with cache.scratch() as folder:
        if not cache.take(pin, folder / name):
            download.download(address, folder / name)
            cache.keep(folder / name, pin, f"the file at {address}")
        return {**local.take(folder / name, kind, files), "origin": url}, True


def _pinned_address(url: str) -> tuple[str, str]:
    address, _, fragment = url.partition("#")
    pin = fragment.removeprefix("sha256=")
    if not re.fullmatch(r"[0-9a-f]{64}", pin):
        hint = f"write {address}#sha256=<the file's sha256>, so that the same rows come each time"
        raise ProjectError("an address needs the sha256 of its file", where=url, hint=hint)
    return address, pin


def _from_sql(rest: str, kind: str, root: Path, files: Path) -> tuple[dict[str, Any], bool]:
    if kind != "source":
        raise ProjectError("a query gives rows, not a model", where=f"sql:{rest[:60]}")
    variable, query = sql.parse(rest)
    sql.export(variable, query, files / "rows.parquet")
    return {"format": "parquet", "origin": f"sql:{rest}"}, False


def _from_path(rest: str, kind: str, root: Path, files: Path) -> tuple[dict[str, Any], bool]:
    return {**local.take(local.find(rest, root), kind, files), "origin": rest}, False


def _name(*parts: str) -> str:
    return hashlib.sha256(canonical([VERSION, *parts])).hexdigest()


_Reader = Callable[[str, str, Path, Path], tuple[dict[str, Any], bool]]
_READERS: Mapping[str, _Reader] = {
    "catalog": _from_catalog,
    "hf": _from_hub,
    "http": _from_url,
    "https": _from_url,
    "sql": _from_sql,
    "path": _from_path,
}
