"""``POST /v1/tag``: names in texts."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from feilun.serve import asking, questions
from feilun.serve.gateway import Gateway
from feilun.serve.routing import body, private

FORM = asking.Form("tags", ("tag",))


def tag_routes(gateway: Gateway) -> APIRouter:
    """Names in texts."""
    router = private(gateway, "classify")

    @router.post(
        "/v1/tag", summary="Names in texts: where they stand and what they are", openapi_extra=body(questions.QUESTION)
    )
    async def tag(request: Request) -> Response:
        return await asking.answer(gateway, request, questions.QUESTION, FORM)

    return router
