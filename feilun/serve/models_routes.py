"""Which models a caller can ask, and the document that says how."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from feilun.accounts.access import Caller
from feilun.models.tabular import Tabular
from feilun.serve.gateway import Gateway
from feilun.serve.names import Named
from feilun.serve.routing import hinted, only, private
from feilun.serve.shelf import CANARY, Loaded, not_found


def models_routes(gateway: Gateway) -> APIRouter:
    """What there is to ask."""
    router = private(gateway, "classify")

    @router.get("/v1/models", summary="The models that can be asked now")
    async def models(request: Request) -> Response:
        only(request)
        return JSONResponse({"object": "list", "data": _models(gateway, request.state.caller)})

    @router.get("/v1/models/{model}", summary="One of them")
    async def one(request: Request, model: str) -> Response:
        only(request)
        found = [told for told in _models(gateway, request.state.caller) if told["id"] == model]
        if not found:
            raise hinted(gateway, request.state.caller, not_found())
        return JSONResponse(found[0])

    @router.get("/openapi.json", include_in_schema=False)
    async def openapi(request: Request) -> Response:
        return JSONResponse(request.app.openapi())

    return router


def _models(gateway: Gateway, caller: Caller) -> list[dict[str, Any]]:
    """Every model that the caller may know of; a canary that is meant for it stands beside its name."""
    found = []
    for named in gateway.shelf.visible(caller.tenant):
        name = named.pointer.name
        loaded = gateway.shelf.loaded.get(name)
        release = named.pointer.release if loaded is None else loaded.digest
        found.append(_model(name, release, named, loaded))
        canary = named.canary
        if canary is not None and canary.release is not None and canary.is_open_to(caller.tenant):
            found.append(_model(name + CANARY, canary.release, named, gateway.shelf.others.get(canary.release)))
    return found


def _model(name: str, release: str, named: Named, loaded: Loaded | None) -> dict[str, Any]:
    """``context`` is only known of a model that is loaded; one that is not is loaded when it is asked."""
    facts = named.facts
    owner = "feilun" if facts.tenant is None else facts.tenant
    engine = None if loaded is None else loaded.engine
    reads = [{"name": c.name, "holds": c.holds} for c in engine.columns] if isinstance(engine, Tabular) else None
    told: dict[str, Any] = {} if reads is None else {"columns": reads}
    return told | {
        "id": name,
        "object": "model",
        "created": (facts.registered_at if loaded is None else loaded.registered_at) // 10**6,
        "owned_by": owner,
        "release": release,
        "task": facts.task if loaded is None else loaded.task,
        "labels": list(facts.labels if loaded is None else loaded.engine.labels),
        "context": None if loaded is None else loaded.engine.context,
    }
