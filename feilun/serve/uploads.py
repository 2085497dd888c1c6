"""Reading a form with one file (``multipart/form-data``, RFC 7578): bounded, in time, and never whole in memory."""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import IO

from starlette.requests import Request

from feilun.serve.bodies import kind
from feilun.serve.problems import RequestError

KIND = "multipart/form-data"
MEMORY = 1_000_000  # bytes of a file that are kept in memory; more go to a temporary file
FIELD = 4_096  # bytes of a value that is no file, and of a part's headers
PARTS = 16
_BOUNDARY = re.compile(r';\s*boundary=(?:"([^"\r\n]{1,70})"|([^\s;",]{1,70}))', re.IGNORECASE)
_NAME = re.compile(r'(?:^|;)\s*name="((?:[^"\\]|\\.)*)"', re.IGNORECASE)
_FILENAME = re.compile(r'(?:^|;)\s*filename="((?:[^"\\]|\\.)*)"', re.IGNORECASE)
_ENCODED = re.compile(r"(?:^|;)\s*filename\*=", re.IGNORECASE)


@dataclass(frozen=True)
class Bounds:
    """The most bytes of a file, and seconds: between two pieces of the body, and for all of it."""

    most_bytes: int
    pause_s: float
    total_s: float


@dataclass
class Form:
    """What came: plain values by name, and the file with the name that its sender gave it."""

    content: IO[bytes]
    values: dict[str, str] = field(default_factory=dict)
    filename: str | None = None


@asynccontextmanager
async def form(request: Request, bounds: Bounds) -> AsyncIterator[Form]:
    """The form in a request's body; its file is gone when the context closes.

    Raises:
        RequestError: 400 not such a form, 408 too slow, 413 too long, 415 another media type, 422 a field that is there
            twice, or several files.
    """
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise RequestError("the body is encoded", status=415, code="content-encoding", hint="send it as it is")
    found = _BOUNDARY.search(request.headers.get("content-type", ""))
    if kind(request) != KIND or found is None:
        raise RequestError("the body is no form", status=415, code="content-type", hint=f"{KIND}; boundary=...")
    length = request.headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit()) or int(length[:20]) > bounds.most_bytes + PARTS * 2 * FIELD:
        raise too_long(bounds)
    with tempfile.SpooledTemporaryFile(MEMORY) as content:
        reading = _Reading(found[1] or found[2], Form(content), bounds)
        try:
            async with asyncio.timeout(bounds.total_s):
                pieces = aiter(request.stream())
                while True:
                    async with asyncio.timeout(bounds.pause_s):
                        piece = await anext(pieces, None)
                    if piece is None:
                        break
                    if piece:
                        await _feed(reading, piece)
        except TimeoutError as error:
            raise RequestError("the body took too long to arrive", status=408, code="slow-body") from error
        yield reading.end()


async def _feed(reading: _Reading, piece: bytes) -> None:
    if reading.on_disk:
        await asyncio.to_thread(reading.feed, piece)  # so that a slow disk holds nobody up
    else:
        reading.feed(piece)


def too_long(bounds: Bounds) -> RequestError:
    """The refusal."""
    return RequestError(f"the file is longer than {bounds.most_bytes:,} bytes", status=413, code="too-long")


class _Reading:
    """A form as it comes, piece by piece."""

    def __init__(self, boundary: str, form: Form, bounds: Bounds) -> None:
        self._mark = b"\r\n--" + boundary.encode("latin-1")
        self._form = form
        self._bounds = bounds
        self._rest = b"\r\n"  # so that the first boundary is found as the others are
        self._state = "before"  # the first boundary; "marked" just behind one, "headers", "value", "file", "end"
        self._name = ""
        self._value = b""
        self._parts = 0
        self._written = 0

    @property
    def on_disk(self) -> bool:
        """Whether the file has outgrown the memory that it may have."""
        return self._written > MEMORY

    def feed(self, piece: bytes) -> None:
        """Take in what came; what follows the form's end is dropped."""
        if self._state == "end":
            return
        self._rest += piece
        while self._state != "end" and self._step():
            pass

    def end(self) -> Form:
        """The form, complete."""
        if self._state != "end":
            raise _broken("it ends too early")
        if self._form.filename is None:
            raise RequestError("the file is missing", status=422, code="invalid-request", where="file")
        self._form.content.seek(0)
        return self._form

    def _step(self) -> bool:
        """Do one thing; False where more has to come first."""
        if self._state == "marked":
            return self._after_mark()
        if self._state == "headers":
            return self._headers()
        at = self._rest.find(self._mark)
        body, self._rest = self._split(at)
        self._take(body)
        if at < 0:
            return False
        self._finish()
        self._state = "marked"
        return True

    def _split(self, at: int) -> tuple[bytes, bytes]:
        """What certainly belongs to the part, and the rest, in which the boundary may begin."""
        if at >= 0:
            return self._rest[:at], self._rest[at + len(self._mark) :]
        keep = max(0, len(self._rest) - len(self._mark) + 1)
        return self._rest[:keep], self._rest[keep:]

    def _after_mark(self) -> bool:
        if len(self._rest) < 2:
            return False
        if self._rest.startswith(b"--"):
            self._state = "end"
            return False
        if not self._rest.startswith(b"\r\n"):
            raise _broken("a boundary is followed by something else")
        self._parts += 1
        if self._parts > PARTS:
            raise _broken("it has too many parts")
        self._state = "headers"  # which may begin with the empty line that ends them
        return True

    def _headers(self) -> bool:
        at = self._rest.find(b"\r\n\r\n")
        if at < 0:
            if len(self._rest) > FIELD:
                raise _broken("a part's headers are too long")
            return False
        try:
            lines = self._rest[:at].decode("utf-8").split("\r\n")
        except UnicodeDecodeError as error:
            raise _broken("a part's headers are not UTF-8") from error
        self._rest = self._rest[at + 4 :]
        headers = {name.strip().lower(): value for name, _, value in (line.partition(":") for line in lines if line)}
        said = headers.get("content-disposition", "")
        name = _NAME.search(said)
        if name is None or not said.strip().lower().startswith("form-data"):
            raise _broken("a part has no name")
        self._name = _unquoted(name[1])
        filename = _FILENAME.search(said)
        if filename is None and (_ENCODED.search(said) or self._name == "file"):
            raise RequestError("the file has no name", status=422, code="invalid-request", where="file")
        self._open(None if filename is None else _unquoted(filename[1]))
        return True

    def _open(self, filename: str | None) -> None:
        twice = self._name in self._form.values or (filename is not None and self._form.filename is not None)
        if twice or (filename is not None and self._name != "file"):
            what = "the field is given twice" if twice else "only 'file' is a file"
            raise RequestError(what, status=422, code="invalid-request", where=self._name[:64])
        self._state = "value" if filename is None else "file"
        if filename is not None:
            self._form.filename = filename

    def _take(self, body: bytes) -> None:
        if self._state == "file":
            self._written += len(body)
            if self._written > self._bounds.most_bytes:
                raise too_long(self._bounds)
            self._form.content.write(body)
        elif self._state == "value":
            self._value += body
            if len(self._value) > FIELD:
                raise _broken("a value is too long")
        elif body.strip():
            raise _broken("something stands before the first boundary")

    def _finish(self) -> None:
        if self._state == "value":
            try:
                self._form.values[self._name] = self._value.decode("utf-8")
            except UnicodeDecodeError as error:
                raise _broken("a value is not UTF-8") from error
            self._value = b""


def _unquoted(text: str) -> str:
    """As browsers and clients quote: %22 and the like for what cannot stand there, or a backslash before it."""
    return re.sub(r"\\(.)", r"\1", text).replace("%22", '"').replace("%0D", "\r").replace("%0A", "\n")


def _broken(why: str) -> RequestError:
    return RequestError(f"the form cannot be read: {why}", status=400, code="invalid-form")
