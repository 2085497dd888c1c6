"""What every private route goes through: a place, a key with the right scope, and a charged answer or a refusal.

Authorisation is a dependency of each router; the public ones are in ``health_routes`` and ``office_routes``.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Depends, Security
from fastapi.security import HTTPBearer
from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import Response
from ulid import ULID

from feilun.accounts.access import Caller
from feilun.errors import AccessError
from feilun.serve import bodies
from feilun.serve.answering import Answered, Asked, Begin, body_digest
from feilun.serve.gateway import Gateway
from feilun.serve.problems import RequestError

_KEY = re.compile(r"[\x21-\x7e]{1,200}")
_DOCUMENTED = HTTPBearer(auto_error=False, description="feilun_live_...")  # for the document; ``allow`` decides
_MOST_NAMES = 20  # of models, in a hint
_OWN_KEYS = "server:"  # idempotency keys that the server makes begin so; a caller's may not


def allow(gateway: Gateway, scope: str) -> Callable[[Request], Awaitable[None]]:
    """A dependency: the caller is who the key says, and the key has the scope."""

    async def authorise(request: Request) -> None:
        headers = request.headers.getlist("authorization")
        header = headers[0] if len(headers) == 1 else None
        caller = gateway.keyring.remembered(header)
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
    route: str = request.scope["route"].path
    asked = Asked(request.state.caller, route, model, body_digest(route, raw), idempotency_key(request), begin)
    answered = await _answered(gateway, asked)
    request.state.request = answered.request
    return _answer(gateway, request, answered)


async def _answered(gateway: Gateway, asked: Asked) -> Answered:
    """Shielded: what was begun is committed and stored, whether or not its caller still waits."""
    try:
        return await asyncio.shield(asyncio.ensure_future(gateway.answering.answer(asked)))
    except AccessError as error:
        if error.name == "model-not-found":
            names = visible(gateway, asked.caller)
            more = [f"and {len(names) - _MOST_NAMES} more"] if len(names) > _MOST_NAMES else []
            error.hint = f"models: {', '.join([*names[:_MOST_NAMES], *more]) or 'none'}; see GET /v1/models"
        raise


def visible(gateway: Gateway, caller: Caller) -> list[str]:
    """The names of the models that a caller may know of: today every caller, all of them."""
    return sorted(gateway.shelf.loaded)


def _answer(gateway: Gateway, request: Request, answered: Answered) -> Response:
    headers = {"X-Request-Id": answered.request}
    if answered.done is None:
        gateway.metrics.replays.inc()
        return Response(answered.body, 200, headers | {"Idempotent-Replay": "true"}, "application/json")
    units = answered.done.units
    request.state.inputs, request.state.tokens = units.inputs, units.tokens
    request.state.release = answered.done.release
    gateway.metrics.inputs.inc(units.inputs)
    gateway.metrics.tokens.inc(units.tokens)
    gateway.metrics.core_seconds.inc(answered.done.compute_ns / 1e9)
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
