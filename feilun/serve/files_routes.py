"""``/v1/files``: what a tenant uploads for batches and for fine-tuning, and what came out of them."""

from __future__ import annotations

import asyncio
import codecs
import re
from dataclasses import replace
from functools import partial
from typing import IO, Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from feilun.serve import paging, uploads
from feilun.serve.admission import Admission
from feilun.serve.gateway import Gateway
from feilun.serve.problems import RequestError
from feilun.serve.routing import only, private
from feilun.serve.settings import GatewaySettings
from feilun.store import files

PURPOSES = ("batch", files.LEARNS)  # of an upload; others have nothing here that would read them
OWN = ("batch_output", "fine-tune-results")  # of what we write
PLACES = 8  # uploads at once: each may take minutes, and must not take the places of those who ask
KEEP_S = (3_600, 30 * 86_400)  # what a file's ``expires_after`` may be
MOST_LISTED = 10_000
_EXPIRES = ("expires_after[anchor]", "expires_after[seconds]")
_WHOLE = re.compile(r"\d{1,8}", re.ASCII)


def files_routes(gateway: Gateway) -> APIRouter:
    """Files are their tenant's alone: to anybody else they are not there."""
    router = private(gateway, "files")
    settings = gateway.settings
    places = Admission(PLACES, 0, PLACES * settings.file_bytes)
    bounds = uploads.Bounds(settings.file_bytes, settings.body_s, settings.upload_s)

    @router.post("/v1/files", summary="Upload JSON lines for a batch or for fine-tuning", openapi_extra=_body())
    async def upload(request: Request) -> Response:
        only(request)
        with places.permit():
            async with uploads.form(request, bounds) as form:
                wanted = _wanted(request, form)
                await asyncio.to_thread(_check_lines, form.content, settings)
                put = partial(files.put, gateway.database, wanted, form.content, most_bytes=settings.files_bytes)
                file = await asyncio.to_thread(put)
        return JSONResponse(told(file))

    @router.get("/v1/files", summary="Your files: ?purpose=batch&after=ID&limit=100&order=desc")
    async def listed(request: Request) -> Response:
        after, limit = paging.asked(request, "purpose", "order", usual=MOST_LISTED, most=MOST_LISTED)
        order, purpose = request.query_params.get("order", "desc"), request.query_params.get("purpose")
        if order not in ("asc", "desc"):
            raise RequestError("the order is asc or desc", status=422, code="invalid-request", where="order")
        if purpose is not None and purpose not in (*PURPOSES, *OWN):
            hint = f"one of {', '.join((*PURPOSES, *OWN))}"
            raise RequestError(
                "there is no such purpose", status=422, code="invalid-request", where="purpose", hint=hint
            )
        more = {"purpose": purpose, "after": after, "limit": limit + 1, "newest": order == "desc"}
        found = await _read(gateway, files.listed, request.state.caller.tenant, **more)
        return JSONResponse(paging.page([told(file) for file in found], limit))

    @router.get("/v1/files/{file}", summary="One of your files")
    async def one(request: Request, file: str) -> Response:
        only(request)
        return JSONResponse(told(await _read(gateway, files.get, request.state.caller.tenant, file)))

    @router.get("/v1/files/{file}/content", summary="The bytes of one of your files")
    async def content(request: Request, file: str) -> Response:
        only(request)
        found = await _read(gateway, files.get, request.state.caller.tenant, file)
        headers = {"Content-Length": str(found.bytes), "Content-Disposition": "attachment"}
        return StreamingResponse(files.parts(gateway.database, found), 200, headers, "application/jsonl")

    @router.delete("/v1/files/{file}", summary="Delete one of your files, and the consent to learn from it")
    async def remove(request: Request, file: str) -> Response:
        only(request)
        tenant = request.state.caller.tenant
        job = gateway.database.submit(lambda c: files.remove(c, tenant, file), order=tenant)
        await gateway.answering.patience.wait(asyncio.shield(asyncio.wrap_future(job)))
        return JSONResponse({"id": file, "object": "file", "deleted": True})

    return router


def told(file: files.File) -> dict[str, Any]:
    """A file as OpenAI's API tells it."""
    expires = {} if file.expires_at is None else {"expires_at": paging.seconds(file.expires_at)}
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": paging.seconds(file.created_at),
        **expires,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "sha256": file.sha256,
    }


async def _read(gateway: Gateway, function: Any, *given: Any, **named: Any) -> Any:
    def read() -> Any:
        with gateway.database.read() as connection:
            return function(connection, *given, **named)

    return await gateway.answering.patience.read(read)


def _wanted(request: Request, form: uploads.Form) -> files.Wanted:
    """What the form says of the file.

    Raises:
        RequestError: 422.
    """
    unknown = sorted(form.values.keys() - {"purpose", *_EXPIRES})
    if unknown:
        hint = "unknown fields are refused"
        raise RequestError("unknown field", status=422, code="invalid-request", where=unknown[0][:64], hint=hint)
    purpose = form.values.get("purpose")
    if purpose not in PURPOSES:
        what = "the purpose is missing" if purpose is None else "nothing here reads files of that purpose"
        hint = f"one of {', '.join(PURPOSES)}"
        raise RequestError(what, status=422, code="invalid-request", where="purpose", hint=hint)
    caller = request.state.caller
    wanted = files.Wanted(caller.tenant, caller.key, purpose, _filename(form.filename or ""))
    return replace(wanted, keep_s=_keep_s(form, files.BATCH_S if purpose == "batch" else None))


def _keep_s(form: uploads.Form, usual: int | None) -> int | None:
    anchor, given = (form.values.get(name) for name in _EXPIRES)
    if anchor is None and given is None:
        return usual
    if anchor != "created_at":
        raise RequestError("the anchor is 'created_at'", status=422, code="invalid-request", where=_EXPIRES[0])
    least, most = KEEP_S
    if given is None or not _WHOLE.fullmatch(given) or not least <= int(given) <= most:
        what = f"a file is kept for {least:,} to {most:,} seconds"
        raise RequestError(what, status=422, code="invalid-request", where=_EXPIRES[1])
    return int(given)


def _filename(given: str) -> str:
    """What a file was called: it is told again, and never used for anything.

    Raises:
        RequestError: 422.
    """
    name = re.split(r"[/\\]", given)[-1]
    if not name or len(name) > 255 or not name.isprintable() or name in (".", ".."):
        raise RequestError("the file cannot have that name", status=422, code="invalid-request", where="file")
    if not name.endswith(".jsonl"):
        hint = "a file of JSON lines, called NAME.jsonl"
        raise RequestError("the file is no .jsonl", status=422, code="invalid-request", where="file", hint=hint)
    return name


def _check_lines(content: IO[bytes], settings: GatewaySettings) -> None:
    """Lines of UTF-8, not too long and not too many; what they say is looked at by who works on them.

    Raises:
        RequestError: 400 not UTF-8, 413 too long or too many, 422 there is none.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    count, column = 0, 0
    content.seek(0)
    try:
        for piece in iter(lambda: content.read(1 << 20), b""):
            decoder.decode(piece)
            *whole, rest = piece.split(b"\n")
            for part in whole:
                column, count = _ended(column + len(part), count, settings)
            column += len(rest)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise RequestError("the file is not UTF-8", status=400, code="invalid-utf8", where="file") from error
    _, count = _ended(column, count, settings)
    if not count:
        raise RequestError("the file is empty", status=422, code="invalid-request", where="file")


def _ended(length: int, count: int, settings: GatewaySettings) -> tuple[int, int]:
    """A line has ended: where the next one begins, and how many there are that hold something."""
    count += length > 0
    if length > settings.body_bytes or count > settings.file_lines:
        what = (
            "a line is too long"
            if length > settings.body_bytes
            else f"there are more than {settings.file_lines:,} lines"
        )
        raise RequestError(what, status=413, code="too-long", where="file")
    return 0, count


def _body() -> dict[str, Any]:
    """The form for the OpenAPI document."""
    properties: dict[str, Any] = {
        "file": {"type": "string", "format": "binary", "description": "JSON lines, called NAME.jsonl"},
        "purpose": {"type": "string", "enum": list(PURPOSES)},
        _EXPIRES[0]: {"type": "string", "enum": ["created_at"]},
        _EXPIRES[1]: {"type": "integer", "minimum": KEEP_S[0], "maximum": KEEP_S[1]},
    }
    schema = {"type": "object", "properties": properties, "required": ["file", "purpose"]}
    return {"requestBody": {"required": True, "content": {uploads.KIND: {"schema": schema}}}}
