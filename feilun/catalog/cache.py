"""Fetched files, kept under their sha256 and re-hashed each time one is taken."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from feilun.errors import ArtifactError

CHUNK = 1 << 20
ABANDONED_S = 2 * 24 * 3600


def folder() -> Path:
    """``$FEILUN_CACHE``, or ``~/.cache/feilun``."""
    return Path(os.environ.get("FEILUN_CACHE") or Path.home() / ".cache" / "feilun").expanduser()


def take(sha256: str, destination: Path) -> bool:
    """Copy a kept file to ``destination``; False when it is not kept or no longer what its name says."""
    kept = _place(sha256)
    try:
        found = _copy(kept, destination)
    except FileNotFoundError:
        return False
    if found != sha256:
        destination.unlink()
        kept.unlink(missing_ok=True)
    return found == sha256


def keep(file: Path, sha256: str, what: str) -> None:
    """Keep a copy of ``file`` if it is what was pinned.

    Raises:
        ArtifactError: its sha256 is another.
    """
    place = _place(sha256)
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_name(f"{sha256}.{secrets.token_hex(4)}")
    try:
        found = _copy(file, partial)
        if found != sha256:
            raise ArtifactError(f"{what} is not what was pinned", where=f"sha256 {found}, expected {sha256}")
        partial.replace(place)
    finally:
        partial.unlink(missing_ok=True)


def new_folder() -> Path:
    """An empty folder on the cache's disk; whoever asked for it removes or moves it."""
    return Path(tempfile.mkdtemp(dir=_partial()))


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(dir=_partial()) as name:
        yield Path(name)


def _partial() -> Path:
    """Where unfinished work lies; what a killed process left there goes after two days."""
    place = folder() / "partial"
    place.mkdir(parents=True, exist_ok=True)
    for left in place.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process was first
            if left.stat().st_mtime < time.time() - ABANDONED_S:
                shutil.rmtree(left, ignore_errors=True)
    return place


def _place(sha256: str) -> Path:
    return folder() / "files" / sha256[:2] / sha256


def _copy(source: Path, destination: Path) -> str:
    """Copy the bytes and return their sha256: one pass over a large file instead of two."""
    digest = hashlib.sha256()
    with source.open("rb") as reading, destination.open("wb") as writing:
        while chunk := reading.read(CHUNK):
            digest.update(chunk)
            writing.write(chunk)
    return digest.hexdigest()
