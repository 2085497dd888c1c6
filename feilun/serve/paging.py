"""Lists as OpenAI's API gives them: a page of them, and whether there is more behind it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request

from feilun.serve.problems import RequestError
from feilun.serve.routing import only

LONGEST = 64  # characters of an id
_WHOLE = re.compile(r"\d{1,6}", re.ASCII)


def asked(request: Request, *more: str, usual: int, most: int) -> tuple[str | None, int]:
    """The id that the page begins behind, and how long it is.

    Args:
        more: further parameters that the route has.
        usual: the length where none is asked for.
        most: the greatest length.

    Raises:
        RequestError: 422.
    """
    only(request, "after", "limit", *more)
    limit = request.query_params.get("limit", str(usual))
    if not _WHOLE.fullmatch(limit) or not 1 <= int(limit) <= most:
        raise RequestError(f"the limit is not 1 to {most:,}", status=422, code="invalid-request", where="limit")
    after = request.query_params.get("after")
    if after is not None and not (0 < len(after) <= LONGEST and after.isascii() and after.isprintable()):
        raise RequestError("it is not an id", status=422, code="invalid-request", where="after")
    return after, int(limit)


def page(found: Sequence[dict[str, Any]], limit: int) -> dict[str, Any]:
    """A page of what was found, of which one more than ``limit`` was looked for."""
    data = list(found[:limit])
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
    return {"object": "list", "data": data, **ends, "has_more": len(found) > limit}


def seconds(microseconds: int | None) -> int | None:
    """A time as OpenAI's API tells it."""
    return None if microseconds is None else microseconds // 10**6
