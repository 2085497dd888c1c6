"""``POST /v1/extract``: answers that stand in texts."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from feilun.serve import asking, questions
from feilun.serve.gateway import Gateway
from feilun.serve.routing import body, private

FORM = asking.Form("extraction", ("extract",))


def extract_routes(gateway: Gateway) -> APIRouter:
    """Answers that stand in texts."""
    router = private(gateway, "classify")

    @router.post("/v1/extract", summary="Find the answers to questions in texts", openapi_extra=body(questions.EXTRACT))
    async def extract(request: Request) -> Response:
        return await asking.answer(gateway, request, questions.EXTRACT, FORM)

    return router
