"""A batch's file: what its lines have to be, and what is written about each of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import Field, TypeAdapter

from feilun.serve import bodies
from feilun.serve.bodies import Body, Word
from feilun.serve.problems import RequestError
from feilun.store import files
from feilun.store.batches import Batch
from feilun.store.database import Database

MOST_ERRORS = 50  # that a batch which cannot begin is told of


class Request(Body):
    """A line of the file."""

    custom_id: Word
    method: str = Field(pattern="^POST$")
    url: str
    body: dict[str, Any]


_REQUEST: TypeAdapter[Request] = TypeAdapter(Request)


@dataclass(frozen=True)
class Line:
    """One request, counted from 1, and its body as it is asked."""

    number: int
    custom_id: str
    body: bytes


@dataclass(frozen=True)
class Reply:
    """What came back; ``status`` 0: it was not asked, for the reason in ``error``."""

    status: int
    request: str | None
    body: Any
    error: dict[str, str] | None = None


def read(database: Database, batch: Batch, file: files.File) -> Iterator[Line]:
    """The requests of a batch in order; lines that hold nothing are passed over.

    Raises:
        RequestError: a line is not such a request; ``where`` is its number in the file.
        ArtifactError, AccessError: the file is damaged, or was deleted.
    """
    seen: set[str] = set()
    for place, raw in enumerate(files.lines(database, file), start=1):
        if raw.strip():
            line = _line(raw, place, batch.endpoint)
            if line.custom_id in seen:
                raise _wrong(place, "another line has this custom_id", "custom_id")
            seen.add(line.custom_id)
            yield line


def problems(database: Database, batch: Batch, file: files.File) -> tuple[int, list[dict[str, Any]]]:
    """How many requests there are, and what is wrong with lines: no more than ``MOST_ERRORS``, none where it can begin.

    Raises:
        ArtifactError, AccessError: the file is damaged, or was deleted.
    """
    seen: set[str] = set()
    total, found = 0, []
    for place, raw in enumerate(files.lines(database, file), start=1):
        if not raw.strip():
            continue
        total += 1
        try:
            line = _line(raw, place, batch.endpoint)
            if line.custom_id in seen:
                raise _wrong(place, "another line has this custom_id", "custom_id")
            seen.add(line.custom_id)
        except RequestError as error:
            found.append({"code": error.name, "message": error.what, "param": error.where, "line": place})
            if len(found) == MOST_ERRORS:
                break
    if not total:
        found = [{"code": "empty", "message": "the file has no request", "param": None, "line": None}]
    return total, found


def written(batch: Batch, line: Line, reply: Reply) -> bytes:
    """The line of the output or error file, with its end."""
    response = {"status_code": reply.status, "request_id": reply.request, "body": reply.body} if reply.status else None
    said = {"id": f"batch_req_{batch.id.removeprefix('batch_')}_{line.number}", "custom_id": line.custom_id}
    return json.dumps(said | {"response": response, "error": reply.error}, ensure_ascii=False).encode() + b"\n"


def _line(raw: bytes, place: int, endpoint: str) -> Line:
    try:
        request = bodies.parse(raw, _REQUEST)
    except RequestError as error:
        raise _wrong(place, error.what, error.where, code=error.name) from error
    if request.url != endpoint:
        raise _wrong(place, f"the batch is for {endpoint}", "url")
    if request.body.get("stream"):
        raise _wrong(place, "an answer in a batch is not streamed", "body.stream")
    return Line(place, request.custom_id, json.dumps(request.body).encode())


def _wrong(place: int, what: str, where: str | None, code: str = "invalid-request") -> RequestError:
    return RequestError(what, status=422, code=code, where=where)
