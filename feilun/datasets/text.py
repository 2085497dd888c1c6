"""A file's bytes as UTF-8, with its byte-order mark and encoding understood and its size bounded."""

from __future__ import annotations

import codecs
from pathlib import Path

import numpy as np

from feilun.errors import DataError

FILE_LIMIT = 4 << 30  # bytes of one source
LINE_LIMIT = 16 << 20  # bytes of one line, and so of one cell

_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


def read(place: Path, where: str, encoding: str | None = None) -> bytes:
    """The file as UTF-8 without a byte-order mark.

    Args:
        place: the file.
        where: what errors call it.
        encoding: a Python codec; by default what the mark says, else UTF-8.

    Raises:
        DataError: it is empty, too large, not in that encoding, or has NUL characters; the line is named.
    """
    size = place.stat().st_size
    if size > FILE_LIMIT:
        raise DataError(f"the file has {size:,} bytes; {FILE_LIMIT:,} is the most", where=where)
    data = place.read_bytes()
    for mark, marked in _MARKS:
        if data.startswith(mark):
            data, encoding = data[len(mark) :], marked
            break
    if not data.strip():
        raise DataError("the file is empty", where=where)
    data = _to_utf8(data, encoding or "utf-8", where)
    nul = data.find(b"\0")
    if nul >= 0:
        hint = 'is it UTF-16? then set encoding = "utf-16-le"'
        raise DataError("the file has NUL characters", where=f"{where}, line {_line(data, nul)}", hint=hint)
    _check_lines(data, where)
    return data


def _to_utf8(data: bytes, encoding: str, where: str) -> bytes:
    try:
        known = codecs.lookup(encoding).name
        decoded = data.decode(known)
        return data if known == "utf-8" else decoded.encode("utf-8")
    except LookupError as error:
        hint = "for example utf-8, latin-1, cp1252, gb18030, utf-16-le"
        raise DataError(f"the encoding '{encoding}' is not known", where=where, hint=hint) from error
    except UnicodeDecodeError as error:
        line = _line(data, error.start)
        hint = 'set the encoding that it has, for example encoding = "latin-1" or "gb18030"'
        raise DataError(f"the file is not {encoding}", where=f"{where}, line {line}", hint=hint) from error
    except UnicodeError as error:
        raise DataError(f"the file is not {encoding}: {error}", where=where) from error


def _check_lines(data: bytes, where: str) -> None:
    breaks = np.flatnonzero(np.frombuffer(data, np.uint8) == 10)
    ends = np.append(breaks, len(data))
    lengths = np.diff(ends, prepend=-1)
    longest = int(lengths.argmax())
    if lengths[longest] > LINE_LIMIT:
        what = f"a line has {int(lengths[longest]):,} bytes; {LINE_LIMIT:,} is the most"
        raise DataError(what, where=f"{where}, line {longest + 1}", hint="is a quotation mark or a line break missing?")


def _line(data: bytes, offset: int) -> int:
    return data.count(b"\n", 0, offset) + 1
