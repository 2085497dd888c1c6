"""Routes that the office answers. What comes from Stripe has no key: its signature says who sent it."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from feilun.errors import AccessError
from feilun.serve import bodies
from feilun.serve.problems import RequestError
from feilun.serve.routes import Gateway, permit

LONGEST = 262_144  # bytes of an event: Stripe's are far shorter


def signed_routes(gateway: Gateway) -> APIRouter:
    """What other services send us: public, but each body has to be signed with a secret that only they and we know."""
    router = APIRouter(tags=["signed"], dependencies=[Depends(permit(gateway))])

    @router.post("/v1/stripe/webhook", summary="What Stripe tells, signed by it (header Stripe-Signature)")
    async def stripe_webhook(request: Request) -> Response:
        if gateway.office is None:
            raise AccessError("Stripe is not used here", status=404, code="not-found")
        declared = bodies.size(request, gateway.settings)
        if request.headers.get("content-length") is not None and declared > LONGEST:
            raise RequestError("the event is too long", status=413, code="too-long")
        signatures = request.headers.getlist("stripe-signature")
        if len(signatures) != 1:
            raise RequestError("the event is not signed", status=400, code="bad-signature", where="Stripe-Signature")
        with gateway.answering.admission.space(declared):
            body = await bodies.read(request, gateway.settings)
        await asyncio.to_thread(gateway.office.stripe_webhook, body, signatures[0])
        return JSONResponse({"received": True})

    return router
