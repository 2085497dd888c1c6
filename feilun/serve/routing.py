"""What every private route goes through: a place, a key with the right scope, and a charged answer or a refusal.

Authorisation is a dependency of each router; the public ones are in ``health_routes`` and ``office_routes``.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

from fastapi import APIRouter, Depends, Security
from fastapi.security import HTTPBearer
from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import Response
from ulid import ULID

from feilun.accounts.access import Caller
from feilun.errors import AccessError, UnavailableError
from feilun.serve import bodies, caching
from feilun.serve.answering import Answered, Asked, Begin, Work, body_digest
from feilun.serve.deadlines import deadline_of
from feilun.serve.gateway import Gateway
from feilun.serve.problems import RequestError
from feilun.serve.shelf import Loaded

_KEY = re.compile(r"[\x21-\x7e]{1,200}")
_DOCUMENTED = HTTPBearer(auto_error=False, description="feilun_live_...")  # for the document; ``allow`` decides
_MOST_NAMES = 20  # of models, in a hint
_OWN_KEYS = "server:"  # idempotency keys that the server makes begin so; a caller's may not
INSIDE = "feilun.inside"  # in the scope of a request that we make ourselves: no header of a caller gets there


@dataclass(frozen=True)
class Inside:
    """Who is asked for, where the request is a line of a batch: its key was looked at by who makes the request."""

    caller: Caller
    idempotency_key: str


def allow(gateway: Gateway, scope: str) -> Callable[[Request], Awaitable[None]]:
    """A dependency: the caller is who the key says, and the key has the scope."""

    async def authorise(request: Request) -> None:
        inside = request.scope.get(INSIDE)
        headers = request.headers.getlist("authorization")
        header = headers[0] if len(headers) == 1 else None
        caller = inside.caller if inside is not None else gateway.keyring.remembered(header)
        if caller is None:
            caller = await gateway.answering.patience.read(gateway.keyring.authenticate, header)
        if caller.mode != gateway.settings.mode:
            raise AccessError(
                f"this is a {caller.mode} key, and this gateway takes {gateway.settings.mode} keys",
                where="Authorization",
                code="wrong-mode",
            )
        request.state.caller = caller
        request.state.tenant = caller.tenant
        if scope not in caller.scopes:
            raise AccessError(
                f"the key does not have the scope '{scope}'",
                status=403,
                where="Authorization",
                hint=f"make one that has it: feilun key create TENANT --scope {scope}",
                code="wrong-scope",
            )

    return authorise


def permit(gateway: Gateway) -> Callable[[], AsyncIterator[None]]:
    """A dependency: one of the places inside, taken before anything else is done."""

    async def take() -> AsyncIterator[None]:
        with gateway.answering.admission.permit():
            yield

    return take


def private(gateway: Gateway, scope: str) -> APIRouter:
    """A router whose every route needs a place and a key with ``scope``."""
    return APIRouter(dependencies=[Depends(permit(gateway)), Depends(allow(gateway, scope)), Security(_DOCUMENTED)])


async def charged(gateway: Gateway, request: Request, raw: bytes, model: str, begin: Begin) -> Response:
    """Answer a request by what ``begin`` makes of it, and charge for it; a repetition gets the stored answer, free.

    Raises:
        FeilunError: refused, and not charged.
    """
    begun: list[Work] = []

    async def beginning(loaded: Loaded) -> Work:
        request.state.model = loaded.name
        work = await begin(loaded)
        begun.append(work)
        return work

    wanted = replace(asked(request, raw, model, beginning), fresh_s=_fresh_s(gateway, request))
    answered = await _answered(gateway, wanted)
    request.state.request = answered.request
    if gateway.prompts is not None and answered.done is not None and begun:
        gateway.prompts.note(answered.request, request.state.tenant, request.state.model, begun[-1].texts)
    return _answer(gateway, request, answered)


def asked(request: Request, raw: bytes, model: str, begin: Begin) -> Asked:
    """What a request asks, by its caller, its headers and its body.

    Raises:
        RequestError: 422, a header cannot be used.
    """
    route: str = request.scope["route"].path
    key, digest = idempotency_key(request), body_digest(route, raw)
    background = INSIDE in request.scope
    return Asked(request.state.caller, route, model, digest, key, begin, deadline_of(request), background)


async def _answered(gateway: Gateway, asked: Asked) -> Answered:
    """Shielded: what was begun is committed and stored, whether or not its caller still waits."""
    try:
        return await asyncio.shield(asyncio.ensure_future(gateway.answering.answer(asked)))
    except AccessError as error:
        hinted(gateway, asked.caller, error)
        raise


def hinted(gateway: Gateway, caller: Caller, error: AccessError) -> AccessError:
    """Of a model that is not found: with the names of those that the caller may know of, and of no others."""
    if error.name == "model-not-found":
        names = [named.pointer.name for named in gateway.shelf.visible(caller.tenant)]
        more = [f"and {len(names) - _MOST_NAMES} more"] if len(names) > _MOST_NAMES else []
        error.hint = f"models: {', '.join([*names[:_MOST_NAMES], *more]) or 'none'}; see GET /v1/models"
    return error


def _fresh_s(gateway: Gateway, request: Request) -> int:
    """How old an answer may be that is given again: as the request says, else as the caller's plan does."""
    try:
        usual = gateway.plans(request.state.caller.plan, time.time_ns() // 1000).cache_s
    except UnavailableError:  # a plan without prices: the ledger refuses
        usual = 0
    return caching.seconds_of(request, usual)


def _answer(gateway: Gateway, request: Request, answered: Answered) -> Response:
    headers = {"X-Request-Id": answered.request}
    if answered.done is None:
        gateway.metrics.replays.inc()
        return Response(answered.body, 200, headers | {"Idempotent-Replay": "true"}, "application/json")
    units = answered.done.units
    request.state.inputs, request.state.tokens = units.inputs, units.tokens
    request.state.tokens_out = units["tokens_out"] or None
    request.state.release = answered.done.release
    gateway.metrics.inputs.inc(units.inputs)
    gateway.metrics.tokens.inc(units.tokens)
    gateway.metrics.core_seconds.inc(answered.done.compute_ns / 1e9)
    if answered.is_kept:
        gateway.metrics.kept.inc()
        headers["X-Cache"] = "hit"
    return Response(answered.body, 200, headers, "application/json")


def only(request: Request, *names: str) -> None:
    """Refuse query parameters that mean nothing here, and one that is given twice."""
    unknown = sorted(request.query_params.keys() - set(names))
    if unknown:
        raise RequestError("unknown query parameter", status=422, code="invalid-request", hint="see /openapi.json")
    for name in names:
        if len(request.query_params.getlist(name)) > 1:
            raise RequestError("the parameter is given more than once", status=422, code="invalid-request", where=name)


def idempotency_key(request: Request) -> str:
    """What makes a request sent again the same: the caller's header, or a name of our own that is never met again."""
    inside: Inside | None = request.scope.get(INSIDE)
    if inside is not None:
        return inside.idempotency_key
    given = request.headers.getlist("idempotency-key")
    if not given:
        return f"{_OWN_KEYS}{ULID()}"
    if len(given) > 1 or not _KEY.fullmatch(given[0]) or given[0].startswith(_OWN_KEYS):
        raise RequestError(
            "the Idempotency-Key cannot be used",
            status=422,
            code="invalid-request",
            where="Idempotency-Key",
            hint="1 to 200 visible ASCII characters, say a UUID",
        )
    return given[0]


def body(shape: TypeAdapter[Any], *, many: bool = False) -> dict[str, Any]:
    """The body for the OpenAPI document; we read bodies ourselves, bounded and strictly."""
    schema: dict[str, Any] = shape.json_schema()
    if many:
        items = {"type": "array", "items": schema, "minItems": 1, "maxItems": bodies.MOST_INPUTS}
        schema = {"oneOf": [schema, items]}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
