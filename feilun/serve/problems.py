"""Every refusal in one shape, the one that clients of OpenAI's API know."""

from __future__ import annotations

import json
from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from feilun.errors import ConflictError, FeilunError, SettingError, UnavailableError

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 409: "conflict_error"}
_TYPES |= {429: "insufficient_quota"}
_WORDS = {404: ("there is nothing here", "not-found"), 405: ("this route has no such method", "method-not-allowed")}


class RequestError(SettingError):
    """The request has to be changed; ``http_status`` says how it was wrong."""

    def __init__(self, what: str, *, status: int, code: str, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(what, where=where, hint=hint, code=code)
        self.http_status = status


class InProgressError(ConflictError):
    """The same request is being worked on; ``retry_after`` is in seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(
            "a request with this Idempotency-Key is being worked on",
            where="Idempotency-Key",
            hint="send it again in a moment; it is answered once and charged once",
            code="in-progress",
        )
        self.retry_after = retry_after


def answer(error: FeilunError) -> Response:
    """The HTTP answer of an error. Of our own faults it says no more than that there was one."""
    status: int = getattr(error, "http_status", error.status)
    if status >= 500 and not isinstance(error, UnavailableError):
        return unexpected()
    headers: dict[str, str] = {}
    retry_after = getattr(error, "retry_after", None)
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status in (408, 413):
        headers["Connection"] = "close"  # what is left of the body is not read
    return shaped(status, error.as_dict(), headers)


def unexpected() -> Response:
    """Our own bug: the log has it, the caller need not."""
    return shaped(500, {"code": "internal", "message": "something went wrong here", "where": None, "hint": None})


def shaped(status: int, said: Mapping[str, str | None], headers: Mapping[str, str] | None = None) -> Response:
    """OpenAI's error shape, with our ``where`` and ``hint`` beside it."""
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    if said["code"] in ("rate-limited", "too-many-at-once"):
        kind = "rate_limit_error"
    error = {"message": said["message"], "type": kind, "param": said["where"], "code": said["code"]}
    body = json.dumps({"error": error | {"where": said["where"], "hint": said["hint"]}}, ensure_ascii=True)
    return Response(body, status, headers, media_type="application/json")


def from_framework(request: Request, error: Exception) -> Response:
    """404 and 405 come from the router; anything else is not ours to explain."""
    assert isinstance(error, HTTPException)
    what, code = _WORDS.get(error.status_code, ("the request cannot be answered", "bad-request"))
    said = {"code": code, "message": what, "where": None, "hint": "GET /openapi.json, with a key, lists the routes"}
    return shaped(error.status_code, said, error.headers)


def from_feilun(request: Request, error: Exception) -> Response:
    """Every error that somebody can mend."""
    assert isinstance(error, FeilunError)
    request.state.code = error.name
    return answer(error)
