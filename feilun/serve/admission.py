"""What may be inside at once, by count, bytes and tokens. The rest is refused at once, unbilled, rather than queued."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from feilun.errors import UnavailableError


class Admission:
    """Counts of one process; used from the event loop's thread only."""

    def __init__(self, most_requests: int, most_tokens: int, most_bytes: int) -> None:
        self.requests = 0
        self.tokens = 0
        self.bytes = 0
        self._most_requests = most_requests
        self._most_tokens = most_tokens
        self._most_bytes = most_bytes

    @property
    def is_full(self) -> bool:
        """Whether no place is left for a request."""
        return self.requests >= self._most_requests

    @contextmanager
    def permit(self) -> Iterator[None]:
        """A place for one request.

        Raises:
            UnavailableError: all places are taken.
        """
        if self.is_full:
            raise full()
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1

    @contextmanager
    def space(self, size: int) -> Iterator[None]:
        """Memory for a body of ``size`` bytes.

        Raises:
            UnavailableError: the bodies that are inside take it all.
        """
        if self.bytes + size > self._most_bytes:
            raise full()
        self.bytes += size
        try:
            yield
        finally:
            self.bytes -= size

    @contextmanager
    def room(self, tokens: int) -> Iterator[None]:
        """Room for a request's tokens; a request larger than all the room is let in when it is alone.

        Raises:
            UnavailableError: there is not enough room now.
        """
        if self.tokens and self.tokens + tokens > self._most_tokens:
            raise full()
        self.tokens += tokens
        try:
            yield
        finally:
            self.tokens -= tokens


def full() -> UnavailableError:
    """The refusal."""
    return UnavailableError(
        "too many requests are being worked on", retry_after=1, hint="send it again; it was not charged", code="busy"
    )
