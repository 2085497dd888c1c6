"""What was used and what it cost, for one tenant; figures of the whole process, for who runs it."""

from __future__ import annotations

import re
from typing import Any

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from feilun.accounts import tenants
from feilun.accounts.access import Caller
from feilun.serve.gateway import Gateway
from feilun.serve.problems import RequestError
from feilun.serve.routing import only, private
from feilun.store import ledger
from feilun.store.counts import METERS
from feilun.store.database import now_us

_PERIOD = re.compile(r"\d{4}-(0[1-9]|1[0-2])")


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
