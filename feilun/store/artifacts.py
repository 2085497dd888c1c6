"""Immutable files, named by what is in them.

An artefact is a folder: its files and ``manifest.json``, which lists each file's sha256, the kind, the parents and a
few facts. Its digest is the sha256 of that manifest, so equal content made from equal parents is one artefact, and a
changed byte anywhere is found on load. A folder appears complete or not at all: written aside, synced, renamed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from sqlalchemy import Connection, select
from sqlalchemy.dialects import postgresql, sqlite

from feilun.errors import ArtifactError
from feilun.store import tables
from feilun.store.database import Database, now_us

MANIFEST = "manifest.json"
KINDS: dict[str, type[Artifact]] = {}


@dataclass(frozen=True)
class Artifact:
    """A handle: small, hashable by digest, and cheap to pass around.

    ``path`` is the folder of its files; ``facts`` are a few JSON values that describe it and are part of its identity.
    """

    digest: str
    parents: tuple[str, ...]
    facts: Mapping[str, Any]
    path: Path
    kind: ClassVar[str] = "artifact"

    def __init_subclass__(cls) -> None:
        KINDS[cls.kind] = cls

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def short(self) -> str:
        """The first 12 hexadecimal digits, enough for people."""
        return self.digest[:12]


A = TypeVar("A", bound=Artifact)


class ArtifactStore:
    """A folder of artefacts and their index in the database."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.folder = folder
        self.database = database
        (folder / "partial").mkdir(parents=True, exist_ok=True)

    def add(self, kind: type[A], files: Path, *, parents: Sequence[str], facts: Mapping[str, Any]) -> A:
        """Take the files in the folder ``files`` (moved, not copied) as one artefact.

        Returns the existing artefact where the same one is there already.

        Raises:
            ArtifactError: one of the files is called ``manifest.json`` or is a symbolic link.
        """
        listed = {name: _describe(files / name) for name in _names(files)}
        body = canonical({"kind": kind.kind, "parents": sorted(set(parents)), "facts": dict(facts), "files": listed})
        manifest: dict[str, Any] = json.loads(body)  # so that what is returned now is what is read later
        digest = hashlib.sha256(body).hexdigest()
        place = self._place(digest)
        if not self._whole(place, digest):
            partial = self.folder / "partial" / secrets.token_hex(8)
            shutil.move(files, partial)
            (partial / MANIFEST).write_bytes(body)
            _sync_tree(partial)
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                partial.rename(place)
            except OSError:
                if self._whole(place, digest):  # another process was first with the same content
                    shutil.rmtree(partial)
                else:  # damaged, or what somebody left of an artefact that they began to remove
                    place.rename(self.folder / "partial" / secrets.token_hex(8))
                    partial.rename(place)
            sync_folder(place.parent)
        self.database.write(lambda c: _index(c, digest, manifest))
        return kind(digest, tuple(manifest["parents"]), manifest["facts"], place)

    def get(self, digest: str) -> Artifact:
        """The handle of a known digest; its manifest is checked, its files are not (see ``verify``).

        Raises:
            ArtifactError: no such artefact, or its manifest is not what the digest says.
        """
        return _handle(self._place(digest), digest)

    def adopt(self, digest: str) -> None:
        """Index an artefact that is in the folder, and all that it was made from, in this database.

        Raises:
            ArtifactError: one of them is not there, or its manifest was changed.
        """
        artifact = self.get(digest)
        with self.database.read() as connection:
            known = select(tables.artifacts.c.digest).where(tables.artifacts.c.digest == digest)
            if connection.execute(known).first() is not None:
                return
        for parent in artifact.parents:
            self.adopt(parent)
        manifest = _manifest(artifact.path, digest)
        self.database.write(lambda c: _index(c, digest, manifest))

    def verify(self, artifact: A) -> A:
        """Re-hash every file before it is used.

        Raises:
            ArtifactError: a file is missing, was added, or is not what the manifest says.
        """
        return _verified(artifact)

    def find(self, prefix: str) -> str:
        """The one digest that begins with ``prefix``.

        Raises:
            ArtifactError: none does, or several do.
        """
        column = tables.artifacts.c.digest
        with self.database.read() as connection:
            query = select(column).where(column.startswith(prefix, autoescape=True)).limit(2)
            found: list[str] = list(connection.execute(query).scalars())
        if len(found) != 1:
            problem = "several artefacts begin" if found else "no artefact begins"
            raise ArtifactError(f"{problem} with '{prefix}'")
        return found[0]

    def _whole(self, place: Path, digest: str) -> bool:
        """Whether the artefact is there and every byte of it is as it was."""
        try:
            manifest = _manifest(place, digest)
            self.verify(KINDS[manifest["kind"]](digest, (), {}, place))
        except ArtifactError:
            return False
        return True

    def _place(self, digest: str) -> Path:
        return _place_in(self.folder, digest)


_DIGEST = re.compile(r"[0-9a-f]{64}")
_MENDED = "remove that folder and run again; it will be made anew"


def neighbour(artifact: Artifact, digest: str) -> Artifact:
    """Another artefact of the same store, found without its database; every byte of it is as it was.

    Raises:
        ArtifactError: it is not there, or a file of it was changed.
    """
    return _verified(_handle(_place_in(artifact.path.parents[1], digest), digest))


def canonical(value: object) -> bytes:
    """JSON with one spelling: sorted keys, no spaces, UTF-8; NaN is refused.

    >>> canonical({"b": 1, "a": [2.5, None]})
    b'{"a":[2.5,null],"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256_file(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _place_in(store: Path, digest: str) -> Path:
    if not _DIGEST.fullmatch(digest):  # it becomes a path
        raise ArtifactError(f"'{digest[:80]}' is not the digest of an artefact")
    return store / digest[:2] / digest


def _handle(place: Path, digest: str) -> Artifact:
    manifest = _manifest(place, digest)
    if manifest["kind"] not in KINDS:
        raise ArtifactError(f"artefact {digest[:12]} is of the unknown kind '{manifest['kind']}'", where=str(place))
    return KINDS[manifest["kind"]](digest, tuple(manifest["parents"]), manifest["facts"], place)


def _verified(artifact: A) -> A:
    listed: dict[str, Any] = _manifest(artifact.path, artifact.digest)["files"]
    changed = set(_names(artifact.path, keep_manifest=True)) ^ {*listed, MANIFEST}
    changed |= {n for n, expected in listed.items() if n not in changed and _describe(artifact.path / n) != expected}
    if changed:
        place = artifact.path / min(changed)
        raise ArtifactError(f"a file of artefact {artifact.short} was changed", where=str(place), hint=_MENDED)
    return artifact


def _names(folder: Path, *, keep_manifest: bool = False) -> list[str]:
    """The files below ``folder``, relative, in order."""
    found = sorted(f for f in folder.rglob("*") if f.is_symlink() or not f.is_dir())
    for file in found:
        if file.is_symlink() or (file == folder / MANIFEST and not keep_manifest):
            raise ArtifactError("an artefact cannot hold this file", where=str(file))
    return [f.relative_to(folder).as_posix() for f in found]


def _manifest(place: Path, digest: str) -> dict[str, Any]:
    try:
        body = (place / MANIFEST).read_bytes()
    except OSError as error:
        raise ArtifactError(f"artefact {digest[:12]} is not in the store", where=str(place)) from error
    if hashlib.sha256(body).hexdigest() != digest:
        raise ArtifactError(f"artefact {digest[:12]} was changed", where=str(place / MANIFEST), hint=_MENDED)
    manifest: dict[str, Any] = json.loads(body)
    return manifest


def _describe(file: Path) -> dict[str, Any]:
    return {"sha256": sha256_file(file), "bytes": file.stat().st_size}


def _sync_tree(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
        else:
            sync_folder(file)
    sync_folder(folder)


def _index(connection: Connection, digest: str, manifest: Mapping[str, Any]) -> None:
    insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    row = {
        "digest": digest,
        "kind": manifest["kind"],
        "facts": canonical(manifest["facts"]).decode(),
        "bytes": sum(f["bytes"] for f in manifest["files"].values()),
        "created_at": now_us(connection),
    }
    connection.execute(insert(tables.artifacts).values(row).on_conflict_do_nothing())
    for parent in manifest["parents"]:
        link = insert(tables.parents).values(child=digest, parent=parent).on_conflict_do_nothing()
        connection.execute(link)
