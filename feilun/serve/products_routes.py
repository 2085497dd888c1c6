"""Data products over HTTP: what there is and what it costs, and a download that is charged before it is given."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from feilun.accounts.access import Caller
from feilun.serve.gateway import Gateway
from feilun.serve.problems import RequestError
from feilun.serve.routing import idempotency_key, only, private
from feilun.store import products

LONGEST = 128  # characters of a name that is looked up


def products_routes(gateway: Gateway) -> APIRouter:
    """Buying needs a scope of its own: a GET that costs money should not be a surprise."""
    router = private(gateway, "products")

    @router.get("/v1/products", summary="The data products, and what a download of each would cost now")
    async def listed(request: Request) -> Response:
        only(request)
        data = await asyncio.to_thread(_listed, gateway, request.state.caller)
        return JSONResponse({"object": "list", "data": data})

    @router.get(
        "/v1/products/{name}",
        summary="Buy and download a data product: ?format=jsonl|csv; an Idempotency-Key makes a repetition free",
    )
    async def download(request: Request, name: str) -> Response:
        only(request, "format")
        form = request.query_params.get("format", "jsonl")
        if form not in products.FORMATS:
            hint = f"one of {', '.join(products.FORMATS)}"
            raise RequestError("there is no such format", status=422, code="invalid-request", where="format", hint=hint)
        caller = request.state.caller
        buyer = products.Buyer(caller.tenant, caller.key, idempotency_key(request))
        with gateway.answering.admission.space(await asyncio.to_thread(_size, gateway, name[:LONGEST])):
            job = asyncio.to_thread(products.sell, gateway.shelf.store, name[:LONGEST], form, buyer, gateway.plans)
            sold = await asyncio.shield(asyncio.ensure_future(job))  # what was begun is charged and kept, or neither
        request.state.request, request.state.release = sold.receipt["id"], sold.receipt["release"]
        return Response(sold.content, 200, _headers(sold, form), products.FORMATS[form])

    return router


def _listed(gateway: Gateway, caller: Caller) -> list[dict[str, Any]]:
    with gateway.database.read() as connection:
        return products.listed(connection, caller.tenant, gateway.plans)


def _size(gateway: Gateway, name: str) -> int:
    with gateway.database.read() as connection:
        return products.size(connection, name)


def _headers(sold: products.Sold, form: str) -> dict[str, str]:
    receipt = sold.receipt
    headers = {
        "X-Request-Id": receipt["id"],
        "X-Receipt": json.dumps({name: receipt[name] for name in ("id", "release", "rows", "usage")}),
        "Content-Disposition": f'attachment; filename="{receipt["product"]}-{receipt["release"][:12]}.{form}"',
    }
    return headers | ({"Idempotent-Replay": "true"} if sold.replayed else {})
