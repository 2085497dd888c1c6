"""What the models earn, for who runs the service."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from feilun.errors import AccessError
from feilun.serve.gateway import Gateway
from feilun.serve.problems import RequestError
from feilun.serve.routing import private


def margin_routes(gateway: Gateway) -> APIRouter:
    """Figures of all tenants, so it needs a key with a scope that tenants are not given."""
    router = private(gateway, "admin")
    one_at_a_time = asyncio.Semaphore(1)  # a report reads the whole month; answers have the other threads to themselves
    threads = ThreadPoolExecutor(1, "feilun-report")

    @router.get(
        "/v1/admin/margin",
        summary="Revenue, costs and margin: ?by=tenant|plan|model|release|day|request&period=2026-11&tenant=&limit=",
    )
    async def margin(request: Request) -> Response:
        if gateway.office is None:
            raise AccessError("there are no books here", status=404, code="not-found")
        for name in request.query_params:
            if len(request.query_params.getlist(name)) > 1:
                raise RequestError("a parameter is given more than once", status=422, code="invalid-request")
        query = dict(request.query_params)
        async with one_at_a_time:
            found = await asyncio.get_running_loop().run_in_executor(threads, gateway.office.margin, query)
        return JSONResponse({"object": "margin", **found})

    return router
