"""Usage that other services report, as CloudEvents 1.0 over HTTP: structured, in batches, or in headers (binary)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from feilun.serve import bodies
from feilun.serve.gateway import Gateway
from feilun.serve.problems import RequestError
from feilun.serve.routing import private
from feilun.store import cloudevents, events

JSON = "application/json"
KINDS = (JSON, cloudevents.BATCH, cloudevents.STRUCTURED)
USUAL_LIMIT = 1_000  # events in one answer
_CHARSET = re.compile(r";\s*charset\s*=\s*\"?([^\";\s]*)", re.IGNORECASE)
_ATTRIBUTE = "ce-"  # what the headers of binary mode begin with
_WHOLE = re.compile(r"\d{1,18}", re.ASCII)


def events_routes(gateway: Gateway) -> APIRouter:
    """Events of any tenant, so the scope is one that tenants are not given."""
    router = private(gateway, "events")

    @router.post("/v1/events", summary="Report usage as CloudEvents 1.0: one, or up to 10,000", openapi_extra=_body())
    async def report(request: Request) -> Response:
        _parameters(request)
        key = request.state.caller.key
        with gateway.answering.admission.space(bodies.size(request, gateway.settings, KINDS)):
            raw = await bodies.read(request, gateway.settings)
            given = await asyncio.to_thread(_read, request, raw)
            job = gateway.database.submit(lambda c: events.record(c, key, given, gateway.settings.meters))
            receipt = await gateway.answering.patience.wait(asyncio.shield(asyncio.wrap_future(job)))
        return JSONResponse({"object": "events", **receipt._asdict()})

    @router.get("/v1/events", summary="What was reported of a tenant: ?tenant=acme&after=0&limit=1000")
    async def export(request: Request) -> Response:
        asked = _parameters(request, "tenant", "after", "limit")
        if "tenant" not in asked:
            raise RequestError("the tenant is missing", status=422, code="invalid-request", where="tenant")
        after, limit = _number(asked, "after", 0), _number(asked, "limit", USUAL_LIMIT)
        if not 1 <= limit <= events.MOST:
            what = f"the limit is not 1 to {events.MOST:,}"
            raise RequestError(what, status=422, code="invalid-request", where="limit")
        found = await gateway.answering.patience.read(_exported, gateway, asked["tenant"], after, limit)
        return JSONResponse(found, media_type=cloudevents.BATCH)

    return router


def _read(request: Request, raw: bytes) -> list[events.Event]:
    """The events of a body, in whichever of the modes it is.

    Raises:
        RequestError: 400 not JSON, 413 too many events, 415 not UTF-8 by its own word, 422 not in the form of its mode.
        DataError: an event is not as CloudEvents demands, or has no subject or units.
    """
    kind = bodies.kind(request, KINDS)
    charset = _CHARSET.search(request.headers.get("content-type", ""))
    if charset is not None and charset[1].lower() not in ("utf-8", "utf8"):
        raise RequestError("the body is not UTF-8", status=415, code="content-type", hint="charset=utf-8")
    value = bodies.load(raw)
    if kind == JSON and any(name.startswith(_ATTRIBUTE) for name in request.headers):
        value = {**_attributes(request), "data": value}
    elif (kind == cloudevents.BATCH) != isinstance(value, list) and kind != JSON:
        form = "a JSON array" if kind == cloudevents.BATCH else "one JSON object"
        raise RequestError(f"{kind} is {form}", status=422, code="invalid-request", where="Content-Type")
    values = value if isinstance(value, list) else [value]
    if len(values) > events.MOST:
        what = f"there are {len(values):,} events in one call"
        raise RequestError(what, status=413, code="too-long", hint=f"at most {events.MOST:,}; what is known is skipped")
    return [cloudevents.read(one, place) for place, one in enumerate(values)]


def _attributes(request: Request) -> dict[str, str]:
    """What the headers say in binary mode; values are percent-encoded UTF-8, in quotes or not."""
    found: dict[str, str] = {}
    for name, value in request.headers.items():
        if not name.startswith(_ATTRIBUTE):
            continue
        attribute = name.removeprefix(_ATTRIBUTE)
        if attribute in found or attribute in ("data", "datacontenttype"):
            what = "the attribute is given twice" if attribute in found else "it is not an attribute of binary mode"
            raise RequestError(what, status=422, code="bad-event", where=name[:64])
        quoted = len(value) > 1 and value[0] == value[-1] == '"'
        plain = re.sub(r"\\(.)", r"\1", value[1:-1]) if quoted else value
        try:
            found[attribute] = unquote(plain.encode("latin-1").decode("utf-8"), errors="strict")
        except UnicodeDecodeError as error:
            raise RequestError("a header is not UTF-8", status=400, code="invalid-utf8", where=name[:64]) from error
    return found


def _exported(gateway: Gateway, tenant: str, after: int, limit: int) -> list[dict[str, Any]]:
    with gateway.database.read() as connection:
        return [cloudevents.write(event) for event in events.export(connection, tenant, after=after, limit=limit)]


def _parameters(request: Request, *names: str) -> dict[str, str]:
    """The query parameters, each once; refuses those that mean nothing here."""
    for name in request.query_params:
        if name not in names or len(request.query_params.getlist(name)) > 1:
            what = "the parameter is given more than once" if name in names else "unknown query parameter"
            raise RequestError(what, status=422, code="invalid-request", hint="see /openapi.json")
    return dict(request.query_params)


def _number(asked: Mapping[str, str], name: str, usual: int) -> int:
    if name in asked and not _WHOLE.fullmatch(asked[name]):
        raise RequestError("it is not a whole number", status=422, code="invalid-request", where=name)
    return int(asked.get(name, usual))


def _body() -> dict[str, Any]:
    """The body for the OpenAPI document."""
    text = {"type": "string", "minLength": 1, "maxLength": events.LONGEST}
    units = {"type": "integer", "minimum": 0, "maximum": events.MOST_UNITS}
    inside = {"type": "object", "properties": {"units": units}, "required": ["units"], "additionalProperties": False}
    properties: dict[str, Any] = {"specversion": {"const": "1.0"}, "time": {"type": "string", "format": "date-time"}}
    properties |= {"id": text, "source": text | {"format": "uri-reference"}}
    properties |= {
        "type": text | {"description": "a meter of the project"},
        "subject": text | {"description": "tenant"},
    }
    properties["data"] = {"oneOf": [units, inside]}
    required = ["specversion", "id", "source", "type", "subject", "data"]
    event = {"type": "object", "properties": properties, "required": required}
    batch = {"type": "array", "items": event, "maxItems": events.MOST}
    schemas = {cloudevents.STRUCTURED: event, cloudevents.BATCH: batch, JSON: {"oneOf": [event, batch]}}
    return {"requestBody": {"required": True, "content": {kind: {"schema": s} for kind, s in schemas.items()}}}
