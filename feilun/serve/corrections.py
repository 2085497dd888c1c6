"""Corrections by those who asked: tied to the answer that they correct, and kept only with consent."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, Row, insert, select
from ulid import ULID

from feilun.errors import AccessError, ConflictError
from feilun.serve.bodies import Correction
from feilun.serve.problems import RequestError
from feilun.store import consents, tables
from feilun.store.database import now_us

Digest = Callable[[str, str], str]  # tenant, text -> keyed digest


def record(connection: Connection, tenant: str, given: list[Correction], digest: Digest) -> list[dict[str, Any]]:
    """Keep corrections and their consents, all or none, in the caller's transaction.

    Raises:
        AccessError: 404, no such answered request of this tenant.
        RequestError: 422, not the text that was asked, or a label that the model does not have.
        ConflictError: that input was corrected before, otherwise.
    """
    return [_record(connection, tenant, one, digest, place) for place, one in enumerate(given)]


def _record(connection: Connection, tenant: str, one: Correction, digest: Digest, place: int) -> dict[str, Any]:
    asked = _answered(connection, tenant, one, place)
    answer, digests = json.loads(asked.answer), json.loads(asked.inputs)
    if answer.get("object") != "classification" or "task" in answer:  # relayed answers say their task
        raise _wrong("only answers that are one label of one text can be corrected", place, "request")
    results = answer["results"]
    if one.input >= len(results):
        raise _wrong("the request had fewer inputs", place, "input")
    if digest(tenant, one.text) != digests[one.input]:
        raise _wrong("the text is not the input that was answered", place, "text", "send it exactly as it was sent")
    result = results[one.input]
    if one.label not in result["scores"]:
        raise _wrong("the model has no such label", place, "label", f"labels: {', '.join(sorted(result['scores']))}")
    row = {"release": asked.release, "kind": "correction", "text": one.text, "answered": result["label"]}
    row |= {"label": one.label, "contributor": one.contributor}
    found = _earlier(connection, tenant, one)
    if found is not None:
        if (found.label, found.contributor) != (one.label, one.contributor):
            raise ConflictError("this input was corrected before, otherwise", where=f"{place}", code="corrected-before")
        return {"id": found.id, "request": one.request, "input": one.input, "status": "known"}
    since = [consents.record(connection, tenant, one.contributor, purpose, granted=True) for purpose in one.consent]
    new = str(ULID())
    place_of = {"tenant": tenant, "request": one.request, "input": one.input}
    connection.execute(insert(tables.feedback).values(id=new, at=max(now_us(connection), *since), **place_of, **row))
    return {"id": new, "request": one.request, "input": one.input, "status": "recorded"}


def _answered(connection: Connection, tenant: str, one: Correction, place: int) -> Row[Any, Any, Any]:
    requests, usage = tables.requests, tables.usage
    query = (
        select(requests.c.answer, requests.c.inputs, usage.c.release)
        .join(usage, usage.c.request == requests.c.id)
        .where(requests.c.id == one.request, requests.c.tenant == tenant, requests.c.state == "posted")
        .with_for_update(of=requests)  # two corrections of one request come one after the other
    )
    row = connection.execute(query).one_or_none()
    if row is None or row.answer is None or row.inputs is None:
        raise AccessError("no such request", status=404, where=f"{place}.request", code="request-not-found")
    return row


def _earlier(connection: Connection, tenant: str, one: Correction) -> Row[Any] | None:
    table = tables.feedback
    same = (table.c.tenant == tenant) & (table.c.request == one.request) & (table.c.input == one.input)
    return connection.execute(select(table).where(same)).one_or_none()


def _wrong(what: str, place: int, part: str, hint: str | None = None) -> RequestError:
    return RequestError(what, status=422, code="wrong-correction", where=f"{place}.{part}", hint=hint)
