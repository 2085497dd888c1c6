"""Which models a caller can ask, and the document that says how."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from feilun.serve.gateway import Gateway
from feilun.serve.routing import only, private, visible


def models_routes(gateway: Gateway) -> APIRouter:
    """What there is to ask."""
    router = private(gateway, "classify")

    @router.get("/v1/models", summary="The models that answer now")
    async def models(request: Request) -> Response:
        only(request)
        names = visible(gateway, request.state.caller)
        return JSONResponse({"object": "list", "data": [_model(gateway, name) for name in names]})

    @router.get("/openapi.json", include_in_schema=False)
    async def openapi(request: Request) -> Response:
        return JSONResponse(request.app.openapi())

    return router


def _model(gateway: Gateway, name: str) -> dict[str, Any]:
    loaded = gateway.shelf.loaded[name]
    return {
        "id": name,
        "object": "model",
        "created": loaded.registered_at // 10**6,
        "owned_by": "feilun",
        "release": loaded.digest,
        "task": loaded.task,
        "labels": list(loaded.engine.labels),
        "context": loaded.engine.context,
    }
