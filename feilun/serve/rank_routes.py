"""``POST /v1/rank``: candidates in order."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from feilun.serve import asking, questions
from feilun.serve.gateway import Gateway
from feilun.serve.routing import body, private

FORM = asking.Form("ranking", ("rank", "embed"))


def rank_routes(gateway: Gateway) -> APIRouter:
    """Candidates in order."""
    router = private(gateway, "classify")

    @router.post("/v1/rank", summary="Put candidates in order, the best first", openapi_extra=body(questions.RANK))
    async def rank(request: Request) -> Response:
        return await asking.answer(gateway, request, questions.RANK, FORM)

    return router
