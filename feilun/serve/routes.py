"""The HTTP routes. Authorisation is a dependency of each router; public routes are a router of their own."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Depends, Security
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from ulid import ULID

from feilun.accounts import tenants
from feilun.accounts.access import Caller, Keyring
from feilun.errors import AccessError, ConflictError, UnavailableError
from feilun.serve import bodies, corrections
from feilun.serve.answering import ROUTE, Answered, Answering, Asked, body_digest
from feilun.serve.metrics import Metrics
from feilun.serve.office import Office
from feilun.serve.problems import RequestError
from feilun.serve.settings import GatewaySettings
from feilun.serve.shelf import Shelf
from feilun.store import ledger
from feilun.store.counts import METERS
from feilun.store.database import Database, now_us, probe

_KEY = re.compile(r"[\x21-\x7e]{1,200}")
_PERIOD = re.compile(r"\d{4}-(0[1-9]|1[0-2])")
_DOCUMENTED = HTTPBearer(auto_error=False, description="feilun_live_...")  # for the document; ``allow`` decides
_RED_S = 2.0  # how long a refused write makes readyz red, whatever was written since
_MOST_NAMES = 20  # of models, in a hint
_OWN_KEYS = "server:"  # idempotency keys that the server makes begin so; a caller's may not


@dataclass
class Gateway:
    """All that the routes work with."""

    database: Database
    keyring: Keyring
    shelf: Shelf
    answering: Answering
    plans: ledger.Plans
    settings: GatewaySettings
    metrics: Metrics = field(default_factory=Metrics)
    draining: bool = False
    office: Office | None = None  # billing, where whoever started the gateway handed it over


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


def public_routes(gateway: Gateway) -> APIRouter:
    """The only two routes without a key."""
    router = APIRouter(tags=["health"])

    @router.get("/healthz", summary="The process is alive")
    async def healthz() -> Response:
        return JSONResponse({"status": "ok"})

    @router.get("/readyz", summary="Requests can be answered")
    async def readyz() -> Response:
        reasons = ["shutting down"] if gateway.draining else []
        reasons += [] if gateway.shelf.loaded else ["no release is loaded"]
        patience = gateway.answering.patience
        try:
            await patience.read(_touch, gateway.database)
            if time.monotonic() - gateway.database.refused_at < _RED_S:
                raise UnavailableError("the database does not take writes")
            if not gateway.database.takes_writes:
                await patience.wait(asyncio.wrap_future(gateway.database.submit(probe)))
        except UnavailableError as error:
            reasons.append(error.what)
        ready = {"status": "not ready", "reasons": reasons} if reasons else {"status": "ready"}
        return JSONResponse(ready, 503 if reasons else 200)

    return router


def classify_routes(gateway: Gateway) -> APIRouter:
    """Answers, and the models that give them."""
    router = private(gateway, "classify")

    @router.post(ROUTE, summary="Classify one or many inputs", openapi_extra=_body(bodies.CLASSIFY))
    async def classify(request: Request) -> Response:
        only(request)
        with gateway.answering.admission.space(bodies.size(request, gateway.settings)):
            raw = await bodies.read(request, gateway.settings)
            asked = Asked(
                caller=request.state.caller,
                body=bodies.parse(raw, bodies.CLASSIFY),
                body_sha256=body_digest(ROUTE, raw),
                idempotency_key=idempotency_key(request),
            )
            answered = await _answered(gateway, asked)
        request.state.request = answered.request
        return _answer(gateway, request, answered)

    @router.get("/v1/models", summary="The models that answer now")
    async def models(request: Request) -> Response:
        only(request)
        return JSONResponse({"object": "list", "data": [_model(gateway, name) for name in _visible(gateway)]})

    @router.get("/openapi.json", include_in_schema=False)
    async def openapi(request: Request) -> Response:
        return JSONResponse(request.app.openapi())

    return router


def feedback_routes(gateway: Gateway) -> APIRouter:
    """What was wrong with an answer."""
    router = private(gateway, "feedback")

    @router.post("/v1/feedback", summary="Correct answers", openapi_extra=_body(bodies.CORRECTION, many=True))
    async def feedback(request: Request) -> Response:
        only(request)
        tenant = request.state.caller.tenant
        with gateway.answering.admission.space(bodies.size(request, gateway.settings)):
            value = bodies.load(await bodies.read(request, gateway.settings))
            if isinstance(value, list):
                given = bodies.validate(value, bodies.CORRECTIONS)
            else:
                given = [bodies.validate(value, bodies.CORRECTION)]
        digest = gateway.keyring.digest_of
        job = gateway.database.submit(lambda c: corrections.record(c, tenant, given, digest))
        try:
            data = await asyncio.shield(asyncio.wrap_future(job))
        except ConflictError as error:
            if error.name == "corrected-before":
                error.hint = "the first correction of an input stands; nothing of this call was recorded"
            raise
        return JSONResponse({"object": "list", "data": data})

    return router


def usage_routes(gateway: Gateway) -> APIRouter:
    """What was used and what it cost."""
    router = private(gateway, "usage")

    @router.get("/v1/usage", summary="This month's usage and spend, or another's: ?period=2026-11")
    async def usage(request: Request) -> Response:
        only(request, "period")
        period = request.query_params.get("period")
        if period is not None and not _PERIOD.fullmatch(period):
            raise RequestError("the period is not a month", status=422, code="invalid-request", where="period")
        return JSONResponse(await gateway.answering.patience.read(_usage, gateway, request.state.caller, period))

    return router


def metrics_routes(gateway: Gateway) -> APIRouter:
    """Totals over all tenants, so it needs a key with a scope that tenants are not usually given."""
    router = private(gateway, "metrics")

    @router.get("/metrics", summary="Figures for Prometheus (bearer key with the scope metrics)")
    async def metrics(request: Request) -> Response:
        only(request)
        answering = {name: loaded.digest for name, loaded in gateway.shelf.loaded.items()}
        return Response(gateway.metrics.text(answering), media_type=CONTENT_TYPE_LATEST)

    return router


async def _answered(gateway: Gateway, asked: Asked) -> Answered:
    """Shielded: what was begun is committed and stored, whether or not its caller still waits."""
    try:
        return await asyncio.shield(asyncio.ensure_future(gateway.answering.answer(asked)))
    except AccessError as error:
        if error.name == "model-not-found":
            names = _visible(gateway)
            more = [f"and {len(names) - _MOST_NAMES} more"] if len(names) > _MOST_NAMES else []
            error.hint = f"models: {', '.join([*names[:_MOST_NAMES], *more]) or 'none'}; see GET /v1/models"
        raise


def _visible(gateway: Gateway) -> list[str]:
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


def _usage(gateway: Gateway, caller: Caller, asked: str | None) -> dict[str, Any]:
    tenant = tenants.get(gateway.database, caller.tenant)
    with gateway.database.read() as connection:
        period, counts, spent = ledger.month(connection, caller.tenant, asked)
        terms = gateway.plans(tenant.plan, now_us(connection))
    return {
        "object": "usage",
        "period": period,
        **{meter: counts[meter] for meter in METERS},
        **counts.more,
        "spent_nano": spent,
        "budget_nano": tenant.budget_nano,
        "quota": dict(terms.quota),
        "currency": terms.currency,
        "plan": tenant.plan,
        "price_version": terms.version,
    }


def _model(gateway: Gateway, name: str) -> dict[str, Any]:
    loaded = gateway.shelf.loaded[name]
    return {
        "id": name,
        "object": "model",
        "created": loaded.registered_at // 10**6,
        "owned_by": "feilun",
        "release": loaded.digest,
        "labels": list(loaded.engine.labels),
        "context": loaded.engine.context,
    }


def _touch(database: Database) -> None:
    with database.read() as connection:
        connection.exec_driver_sql("SELECT 1 FROM migrations LIMIT 1")


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


def _body(shape: TypeAdapter[Any], *, many: bool = False) -> dict[str, Any]:
    """The body for the OpenAPI document; we read bodies ourselves, bounded and strictly."""
    schema: dict[str, Any] = shape.json_schema()
    if many:
        items = {"type": "array", "items": schema, "minItems": 1, "maxItems": bodies.MOST_INPUTS}
        schema = {"oneOf": [schema, items]}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
