"""``X-Deadline-Ms``: how long the caller waits for an answer. What cannot be there by then is not begun."""

from __future__ import annotations

import time

from starlette.requests import Request

from feilun.errors import UnavailableError
from feilun.serve.problems import RequestError

HEADER = "X-Deadline-Ms"
LONGEST_MS = 86_400_000


class DeadlineError(UnavailableError):
    """The answer cannot be there in time; it was not begun and is not charged."""

    code = "deadline"
    status = 504


def deadline_of(request: Request) -> float | None:
    """When the caller stops waiting, by ``time.monotonic``; None where the request does not say.

    The time counts from the request's first byte: ``state.arrived``, where the outermost layer noted it.

    Raises:
        RequestError: 422, not whole milliseconds between 1 and a day, or given twice.
    """
    given = request.headers.getlist(HEADER)
    if not given:
        return None
    text = given[0].strip()
    if len(given) > 1 or not (text.isascii() and text.isdigit() and 1 <= int(text[:12]) <= LONGEST_MS):
        raise RequestError(
            "the deadline cannot be used",
            status=422,
            code="invalid-request",
            where=HEADER,
            hint=f"whole milliseconds from now, 1 to {LONGEST_MS}",
        )
    arrived: float = getattr(request.state, "arrived", None) or time.monotonic()
    return arrived + int(text) / 1000


def check(deadline: float | None) -> None:
    """Nothing, while there is time.

    Raises:
        DeadlineError: there is none left.
    """
    if deadline is not None and time.monotonic() > deadline:
        raise late(0.0)


def late(wait_s: float) -> DeadlineError:
    """The refusal; ``wait_s`` is how long what is there now will take."""
    return DeadlineError(
        "the answer would not be there by the deadline",
        retry_after=min(60, max(1, round(wait_s + 0.5))),
        where=HEADER,
        hint="it was not begun and not charged; allow more time, or send it again later",
    )
