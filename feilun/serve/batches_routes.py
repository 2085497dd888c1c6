"""``/v1/batches``: many requests at once, answered when there is time, for less."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter
from pydantic import AfterValidator, Field, TypeAdapter
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match

from feilun.serve import bodies, paging
from feilun.serve.bodies import Body, Word
from feilun.serve.gateway import Gateway
from feilun.serve.problems import RequestError
from feilun.serve.routing import body, only, private
from feilun.store import batches, files

T = TypeVar("T")
Endpoint = Literal[
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/moderations",
    "/v1/classify",
    "/v1/tag",
    "/v1/rank",
    "/v1/extract",
    "/v1/score",
    "/v1/predict",
]
MOST_HOURS = 168
MOST_LISTED = 100
NAMES = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")


def _hours(window: str) -> str:
    if not (window[:-1].isascii() and window[:-1].isdigit() and window.endswith("h")):
        raise ValueError("it is a number of hours, like 24h")
    if not 1 <= int(window[:4].rstrip("h")) <= MOST_HOURS:
        raise ValueError(f"it is 1h to {MOST_HOURS}h")
    return window


def _metadata(given: dict[str, str] | None) -> dict[str, str] | None:
    if given is not None and (len(given) > 16 or any(len(k) > 64 or len(v) > 512 for k, v in given.items())):
        raise ValueError("at most 16 names of up to 64 characters, each with up to 512")
    return given


Metadata = Annotated[dict[bodies.Word, Annotated[str, Field(max_length=512)]] | None, AfterValidator(_metadata)]


class ExpiresAfter(Body):
    """How long the files that come out are kept."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=3_600, le=30 * 86_400)]


class NewBatch(Body):
    """``POST /v1/batches``."""

    input_file_id: Word = Field(description="a file of the purpose batch: a request in each line")
    endpoint: Endpoint
    completion_window: Annotated[str, Field(max_length=5), AfterValidator(_hours)] = Field(description="24h, say")
    metadata: Metadata = None
    output_expires_after: ExpiresAfter | None = None


NEW: TypeAdapter[NewBatch] = TypeAdapter(NewBatch)


def batches_routes(gateway: Gateway) -> APIRouter:
    """Batches are their tenant's alone: to anybody else they are not there."""
    router = private(gateway, "files")

    async def read(job: Callable[[Connection], T]) -> T:
        def reading() -> T:
            with gateway.database.read() as connection:
                return job(connection)

        return await gateway.answering.patience.read(reading)

    async def write(job: Callable[[Connection], T], tenant: str) -> T:
        future = gateway.database.submit(job, order=tenant)
        return await gateway.answering.patience.wait(asyncio.shield(asyncio.wrap_future(future)))

    @router.post("/v1/batches", summary="Have every line of a file answered", openapi_extra=body(NEW))
    async def create(request: Request) -> Response:
        only(request)
        caller = request.state.caller
        with gateway.answering.admission.space(bodies.size(request, gateway.settings)):
            new = bodies.parse(await bodies.read(request, gateway.settings), NEW)
        there = {"type": "http", "method": "POST", "path": new.endpoint, "root_path": "", "headers": []}
        if all(route.matches(there)[0] is not Match.FULL for route in request.app.routes):
            raise RequestError("there is no such route", status=422, code="invalid-request", where="endpoint")
        said: dict[str, Any] = {"completion_window": new.completion_window, "metadata": new.metadata}
        if new.output_expires_after is not None:
            said["keep_s"] = new.output_expires_after.seconds
        window_s = int(new.completion_window[:-1]) * 3_600
        wanted = batches.Wanted(caller.tenant, caller.key, new.endpoint, new.input_file_id, said, window_s)

        def job(connection: Connection) -> batches.Batch:
            if files.get(connection, caller.tenant, new.input_file_id).purpose != "batch":
                raise RequestError(
                    "the file was not uploaded for a batch", status=422, code="invalid-request", where="input_file_id"
                )
            return batches.create(connection, wanted)

        return JSONResponse(told(await write(job, caller.tenant)))

    @router.get("/v1/batches", summary="Your batches, newest first: ?after=ID&limit=20")
    async def listed(request: Request) -> Response:
        after, limit = paging.asked(request, usual=20, most=MOST_LISTED)
        tenant = request.state.caller.tenant
        found = await read(lambda c: batches.listed(c, tenant, after=after, limit=limit + 1))
        return JSONResponse(paging.page([told(batch) for batch in found], limit))

    @router.get("/v1/batches/{batch}", summary="How far one of your batches is")
    async def one(request: Request, batch: str) -> Response:
        only(request)
        tenant = request.state.caller.tenant
        return JSONResponse(told(await read(lambda c: batches.get(c, tenant, batch))))

    @router.post("/v1/batches/{batch}/cancel", summary="End one of your batches; what is answered is charged and kept")
    async def cancel(request: Request, batch: str) -> Response:
        only(request)
        tenant = request.state.caller.tenant
        return JSONResponse(told(await write(lambda c: batches.cancel(c, tenant, batch), tenant)))

    return router


def told(batch: batches.Batch) -> dict[str, Any]:
    """A batch as OpenAI's API tells it."""
    times = {f"{name}_at": paging.seconds(batch.times.get(name)) for name in NAMES}
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": None if batch.errors is None else {"object": "list", "data": batch.errors},
        "input_file_id": batch.input_file,
        "completion_window": batch.said["completion_window"],
        "status": batch.state,
        "output_file_id": batch.output_file,
        "error_file_id": batch.error_file,
        "created_at": paging.seconds(batch.created_at),
        "expires_at": paging.seconds(batch.expires_at),
        **times,
        "request_counts": {"total": batch.total, "completed": batch.completed, "failed": batch.failed},
        "metadata": batch.said["metadata"],
    }
