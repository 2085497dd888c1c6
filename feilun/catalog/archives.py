"""Single files out of zip, tar and gzip archives, each bounded, under names that we choose (RELIABILITY 42, 43).

An archive's own names are only ever compared, never used as paths, so no member can land outside its destination.
"""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from feilun.catalog import cache
from feilun.errors import ArtifactError

MEMBER_LIMIT = 4 << 30  # bytes of one unpacked file
STREAM_LIMIT = 8 << 30  # bytes of a whole unpacked tar: its members can only be reached by reading up to them
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, EOFError, zlib.error, OSError, NotImplementedError)


def extract(archive: Path, wanted: Mapping[str, Path], *, limit: int = MEMBER_LIMIT, strip: bool = False) -> None:
    """Write each named member of ``archive`` to its path.

    Args:
        archive: a zip (wheel), tar, tar.gz or gzip file.
        wanted: member -> destination; ``a.zip!b.txt`` is b.txt in the archive a.zip in this one.
        limit: the most bytes that one member may unpack to.
        strip: leave out the first folder of the members' names, as in a source archive.

    Raises:
        ArtifactError: a member is missing, is not a regular file, is too large, or the archive is broken.
    """
    direct = {name: place for name, place in wanted.items() if "!" not in name}
    nested: dict[str, dict[str, Path]] = {}
    for name, place in wanted.items():
        outer, mark, inner = name.partition("!")
        if mark:
            nested.setdefault(outer, {})[inner] = place
    with cache.scratch() as folder:
        unpacked = {outer: folder / f"{number}-{Path(outer).name}" for number, outer in enumerate(nested)}
        try:
            _take(archive, {**direct, **unpacked}, limit, strip)
        except _BROKEN as error:
            raise ArtifactError(
                f"the archive {archive.name} is broken", where=str(error) or type(error).__name__
            ) from error
        for outer, members in nested.items():
            extract(unpacked[outer], members, limit=limit)


def _take(archive: Path, wanted: Mapping[str, Path], limit: int, strip: bool) -> None:
    if zipfile.is_zipfile(archive):
        left = _from_zip(archive, wanted, limit)
    else:
        with archive.open("rb") as raw:
            compressed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            stream = _Bounded(gzip.GzipFile(fileobj=raw) if compressed else raw)
            head = stream.read(512)
            stream.unread(head)
            if _is_tar(head):
                left = _from_tar(stream, wanted, limit, strip)
            elif compressed:
                left = _from_gzip(stream, wanted, limit)
            else:
                raise ArtifactError(f"the archive {archive.name} is broken", where="not a zip, tar or gzip file")
    if left:
        raise ArtifactError(f"the archive {archive.name} has no {min(left)}")


def _from_zip(archive: Path, wanted: Mapping[str, Path], limit: int) -> set[str]:
    with zipfile.ZipFile(archive) as opened:
        present = {info.filename: info for info in opened.infolist()}
        for name, place in wanted.items():
            info = present.get(name)
            if info is None:
                return {name}
            if info.is_dir() or stat.S_ISLNK(info.external_attr >> 16):
                raise ArtifactError(f"{name} is not a regular file", where=archive.name)
            with opened.open(info) as member:
                _copy(member, place, limit, name)
    return set()


def _from_gzip(stream: _Bounded, wanted: Mapping[str, Path], limit: int) -> set[str]:
    """The one file that is compressed, whatever it is called."""
    name = min(wanted)
    _copy(stream, wanted[name], limit, name)
    return set(wanted) - {name}


def _from_tar(stream: _Bounded, wanted: Mapping[str, Path], limit: int, strip: bool) -> set[str]:
    left = set(wanted)
    with tarfile.open(fileobj=stream, mode="r|") as opened:
        for member in opened:
            name = member.name.partition("/")[2] if strip else member.name
            if name not in left:
                continue
            body = opened.extractfile(member) if member.isreg() else None
            if body is None:
                raise ArtifactError(f"{name} is not a regular file")
            _copy(body, wanted[name], limit, name)
            left.discard(name)
            if not left:
                break
    return left


def _is_tar(head: bytes) -> bool:
    """By the header's checksum: the oldest tars have no other mark."""
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _copy(source: IO[bytes] | _Bounded, place: Path, limit: int, name: str) -> None:
    size = 0
    with place.open("wb") as writing:
        while chunk := source.read(min(cache.CHUNK, limit - size + 1)):
            size += len(chunk)
            if size > limit:
                raise ArtifactError(f"{name} unpacks to more than {limit:,} bytes", hint="is it a zip bomb?")
            writing.write(chunk)


class _Bounded(io.RawIOBase):
    """A stream that stops with an error after ``STREAM_LIMIT`` bytes, and of which a little can be put back."""

    def __init__(self, stream: IO[bytes] | gzip.GzipFile) -> None:
        self._stream = stream
        self._left = STREAM_LIMIT
        self._back = b""

    def unread(self, data: bytes) -> None:
        """Return ``data`` again from the next read."""
        self._back = data + self._back

    def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes."""
        if self._back:
            data, self._back = self._back[:size], self._back[size:]
            return data
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise ArtifactError(f"an archive unpacks to more than {STREAM_LIMIT:,} bytes", hint="is it a zip bomb?")
        return data
