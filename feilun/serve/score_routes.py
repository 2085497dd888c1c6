"""``POST /v1/score``: numbers of texts and of pairs of texts."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from feilun.serve import asking, questions
from feilun.serve.gateway import Gateway
from feilun.serve.routing import body, private

FORM = asking.Form("scoring", ("regress", "similarity"))


def score_routes(gateway: Gateway) -> APIRouter:
    """Numbers of texts and of pairs of texts."""
    router = private(gateway, "classify")

    @router.post("/v1/score", summary="A number for each input", openapi_extra=body(questions.PAIRS))
    async def score(request: Request) -> Response:
        return await asking.answer(gateway, request, questions.PAIRS, FORM)

    return router
