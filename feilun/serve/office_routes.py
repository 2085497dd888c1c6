"""Routes that the office answers. What comes from Stripe has no key: its signature says who sent it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from feilun.errors import AccessError
from feilun.serve import bodies
from feilun.serve.admission import Admission
from feilun.serve.gateway import Gateway
from feilun.serve.problems import RequestError

LONGEST = 262_144  # bytes of an event: Stripe's are far shorter
PLACES = 8  # at once, of their own: whoever has no key can keep these busy, and no customer waits for it
BODY_S = 3.0  # seconds in which a body has to be here


def signed_routes(gateway: Gateway) -> APIRouter:
    """What other services send us: public, but each body has to be signed with a secret that only they and we know."""
    router = APIRouter(tags=["signed"])
    places = Admission(most_requests=PLACES, most_tokens=0, most_bytes=PLACES * LONGEST)
    settings = replace(gateway.settings, body_bytes=LONGEST, body_s=BODY_S)

    @router.post("/v1/stripe/webhook", summary="What Stripe tells, signed by it (header Stripe-Signature)")
    async def stripe_webhook(request: Request) -> Response:
        if gateway.office is None or not gateway.office.hears_stripe:
            raise AccessError("Stripe is not used here", status=404, code="not-found")
        signatures = request.headers.getlist("stripe-signature")
        if len(signatures) != 1:
            raise RequestError("the event is not signed", status=400, code="bad-signature", where="Stripe-Signature")
        with places.permit():
            bodies.size(request, settings)
            body = await bodies.read(request, settings)
        await asyncio.to_thread(gateway.office.stripe_webhook, body, signatures[0])
        return JSONResponse({"received": True})

    return router
