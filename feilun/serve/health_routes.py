"""The routes without a key: whether the process lives, and whether it can answer."""

from __future__ import annotations

import asyncio
import time

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from feilun.errors import UnavailableError
from feilun.serve.gateway import Gateway
from feilun.store.database import Database, probe

_RED_S = 2.0  # how long a refused write makes readyz red, whatever was written since


def health_routes(gateway: Gateway) -> APIRouter:
    """Liveness and readiness differ: who restarts a process asks the first, who sends it traffic the second."""
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
        ready: dict[str, object] = {"status": "not ready", "reasons": reasons} if reasons else {"status": "ready"}
        if failing := len(gateway.shelf.failing):  # what was loaded before answers meanwhile: ready all the same
            ready["warnings"] = [f"{failing} releases could not be loaded; GET /v1/releases says which, and why"]
        return JSONResponse(ready, 503 if reasons else 200)

    return router


def _touch(database: Database) -> None:
    with database.read() as connection:
        connection.exec_driver_sql("SELECT 1 FROM migrations LIMIT 1")
