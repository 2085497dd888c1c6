"""What was wrong with an answer."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from feilun.errors import ConflictError
from feilun.serve import bodies, corrections
from feilun.serve.gateway import Gateway
from feilun.serve.routing import body, only, private


def feedback_routes(gateway: Gateway) -> APIRouter:
    """What was wrong with an answer."""
    router = private(gateway, "feedback")

    @router.post("/v1/feedback", summary="Correct answers", openapi_extra=body(bodies.CORRECTION, many=True))
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
