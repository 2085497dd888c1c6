"""What may be inside at once, by count, bytes, tokens and time. The rest is refused at once, unbilled, not queued.

No tenant can take all the places: each may have ``GREED`` times its share of those that are free now, so the fuller it
gets the less one alone may have, and some are always left for who comes next (the dynamic thresholds of Choudhury and
Hahne 1998). Whoever has more than a fair part of a full house is told 429, it is theirs to send less; everybody else is
told 503. Both say when to come again, by how fast the work goes now.

Time: of requests that are answered as a whole, no more is let in than is done in ``queue_s`` at the pace of the last
seconds, so whoever is let in is answered soon. Those that generate have a scheduler of their own, and no such bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from feilun.errors import FeilunError, QuotaError, UnavailableError
from feilun.serve.fairness import Standing, whole_seconds

GREED = 8


@dataclass
class _Inside:
    """What one tenant has inside."""

    share: int
    requests: int = 0
    tokens: int = 0
    brief: int = 0  # tokens of requests that are answered as a whole


def _at_once() -> float:
    return 0.0


def _any_number() -> float:
    return math.inf


class Admission:
    """Counts of one process; used from the event loop's thread only.

    Args:
        wait_s: how long what is inside will take, for the refusals.
        most_brief: how many tokens of requests that are answered as a whole are done in time.
    """

    def __init__(
        self,
        most_requests: int,
        most_tokens: int,
        most_bytes: int,
        wait_s: Callable[[], float] = _at_once,
        most_brief: Callable[[], float] = _any_number,
    ) -> None:
        self.requests = 0
        self.tokens = 0
        self.brief = 0
        self.bytes = 0
        self.refused = 0
        self._most_requests = most_requests
        self._most_tokens = most_tokens
        self._most_bytes = most_bytes
        self._wait_s = wait_s
        self._most_brief = most_brief
        self._tenants: dict[str, _Inside] = {}

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
            raise self.full()
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
            raise self.full()
        self.bytes += size
        try:
            yield
        finally:
            self.bytes -= size

    @contextmanager
    def room(self, tokens: int, standing: Standing | None = None, *, generates: bool = False) -> Iterator[None]:
        """Room for a request's tokens; a request larger than all the room is let in when it is alone.

        Args:
            generates: whether it is answered by a model that has a scheduler of its own.

        Raises:
            UnavailableError: there is not enough room now.
            QuotaError: there is, but not for a tenant who has so much of it already.
        """
        brief = 0 if generates else tokens
        mine = self._of(standing)
        if self._is_too_much(tokens, brief) or self._is_greedy(mine, tokens, brief):
            raise self._refusal(mine)
        if standing is not None:
            self._tenants[standing.tenant] = mine
        self._count(mine, 1, tokens, brief)
        try:
            yield
        finally:
            self._count(mine, -1, -tokens, -brief)
            if standing is not None and not mine.requests:
                self._tenants.pop(standing.tenant, None)

    def look(self, standing: Standing, *, generates: bool = False) -> None:
        """Refuse early, before its tokens are counted, what ``room`` would refuse were it one token long.

        Raises:
            UnavailableError, QuotaError: as ``room``.
        """
        brief, mine = int(not generates), self._of(standing)
        if self._is_too_much(1, brief) or self._is_greedy(mine, 1, brief):
            raise self._refusal(mine)

    def full(self) -> UnavailableError:
        """The refusal of a full house."""
        self.refused += 1
        return UnavailableError(
            "too many requests are being worked on",
            retry_after=whole_seconds(self._wait_s()),
            hint="send it again; it was not charged",
            code="busy",
        )

    def _of(self, standing: Standing | None) -> _Inside:
        known = None if standing is None else self._tenants.get(standing.tenant)
        return known or _Inside(1 if standing is None else standing.share)

    def _count(self, mine: _Inside, requests: int, tokens: int, brief: int) -> None:
        self.tokens += tokens
        self.brief += brief
        mine.requests += requests
        mine.tokens += tokens
        mine.brief += brief

    def _is_too_much(self, tokens: int, brief: int) -> bool:
        """For everybody together."""
        if self.tokens and self.tokens + tokens > self._most_tokens:
            return True
        return bool(brief and self.brief) and self.brief + brief > self._most_brief()

    def _is_greedy(self, mine: _Inside, tokens: int, brief: int) -> bool:
        """For this tenant, who has something inside already."""
        if not mine.requests:
            return False
        greed = GREED * mine.share
        free = self._most_requests - self.requests + 1  # this request has its place already
        if mine.requests >= greed * free or mine.tokens + tokens > greed * (self._most_tokens - self.tokens):
            return True
        return bool(brief and mine.brief) and mine.brief + brief > greed * (self._most_brief() - self.brief)

    def _refusal(self, mine: _Inside) -> FeilunError:
        """429 to a tenant who has more than its fair part while others are here, else 503."""
        inside = self._tenants.values()
        shares = sum(tenant.share for tenant in inside)
        part = mine.share / shares if shares else 1.0
        most = part * sum(tenant.tokens for tenant in inside), part * sum(tenant.requests for tenant in inside)
        if len(self._tenants) < 2 or (mine.tokens <= most[0] and mine.requests <= most[1]):
            return self.full()
        self.refused += 1
        return QuotaError(
            "this customer has its part of all places, and others wait",
            retry_after=whole_seconds(self._wait_s()),
            hint="send fewer at once, or again later; it was not charged",
            code="too-many-at-once",
        )
