"""Who goes next to the engine, when more is asked than it does at once.

A window of tokens is worked on; what does not fit waits its turn. Turns go by start-time fair queueing (Goyal, Vin and
Cheng 1996): a request's tag is where its tenant's work would stand had it been done at its share's pace, and the lowest
tag goes first. So a tenant who sends a thousand requests keeps nobody else from an answer, and one who was silent saves
nothing up. Between priorities the higher goes first, but a lower one that waits gets one token of ``SCARCE``.

Used from the event loop's thread only. Where nothing waits, a turn costs a few additions.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from feilun.serve.deadlines import late
from feilun.serve.pace import Pace

SCARCE = 16  # while a higher priority is served, a lower one that waits gets at least 1 / SCARCE of its tokens
MOST_TAGS = 1024  # of tenants, before those are forgotten that say nothing any more
EVERYONE = 1


class Standing(NamedTuple):
    """Whose request it is, and what its plan gives it."""

    tenant: str
    share: int = EVERYONE  # of the engine, against the shares of others who ask at the same time
    priority: int = 0


@dataclass(eq=False)
class Turn:
    """The right to use the engine, until ``end``."""

    turns: Turns
    standing: Standing
    tokens: int

    def end(self, used: int | None = None) -> None:
        """Give it back, once; ``used`` is how many tokens it was after all, where that is known only now."""
        if self.tokens:
            self.turns.end(self.standing, self.tokens, self.tokens if used is None else used)
            self.tokens = 0


@dataclass(order=True)
class _Waiter:
    tag: float
    number: int
    tokens: int = field(compare=False)
    standing: Standing = field(compare=False)
    granted: asyncio.Future[None] = field(compare=False)


@dataclass
class _Class:
    """Requests of one priority."""

    virtual: float = 0.0  # the tag of who went last
    owed: int = 0  # tokens that higher priorities had since one of these waits
    finish: dict[str, float] = field(default_factory=dict)  # tenant -> where its next request begins
    waiting: list[_Waiter] = field(default_factory=list)

    def tag(self, standing: Standing, tokens: int) -> float:
        """The start tag of a new request; its tenant's next one begins behind it."""
        begins = max(self.virtual, self.finish.get(standing.tenant, 0.0))
        self.finish[standing.tenant] = begins + tokens / standing.share
        if len(self.finish) > MOST_TAGS:
            self.finish = {tenant: end for tenant, end in self.finish.items() if end > self.virtual}
        return begins

    def correct(self, standing: Standing, tokens: int) -> None:
        """It was so many tokens fewer (or, below 0, more) than its tag was made for."""
        if standing.tenant in self.finish:
            self.finish[standing.tenant] -= tokens / standing.share

    def head(self) -> _Waiter | None:
        """Who is next here; those that gave up meanwhile are dropped."""
        while self.waiting and self.waiting[0].granted.done():
            heapq.heappop(self.waiting)
        return self.waiting[0] if self.waiting else None


class Turns:
    """The turns of one engine."""

    def __init__(self, window: int, pace: Pace | None = None) -> None:
        self.running = 0
        self.queued = 0  # tokens
        self.pace = pace or Pace()
        self._window = window
        self._classes: dict[int, _Class] = {}
        self._numbers = itertools.count()

    async def take(self, standing: Standing, tokens: int, deadline: float | None = None) -> Turn:
        """Wait for a turn.

        Args:
            tokens: of the request; one without any is taken for one token.
            deadline: by ``time.monotonic``, when its answer is of no use any more.

        Raises:
            DeadlineError: it cannot be answered by then, or was not: whoever waits is dropped.
        """
        tokens = max(1, tokens)
        ranked = self._ranked(standing.priority)
        if not self.queued and self._fits(tokens):
            if deadline is not None and time.monotonic() + self.pace.seconds(self.running + tokens) > deadline:
                raise late(self.wait_s)
            ranked.virtual = max(ranked.virtual, ranked.tag(standing, tokens))
            self.running += tokens
            return Turn(self, standing, tokens)
        waiter = _Waiter(
            ranked.tag(standing, tokens),
            next(self._numbers),
            tokens,
            standing,
            asyncio.get_running_loop().create_future(),
        )
        if deadline is not None and time.monotonic() + self.pace.seconds(self._ahead(waiter)) > deadline:
            ranked.correct(standing, tokens)
            raise late(self.wait_s)
        heapq.heappush(ranked.waiting, waiter)
        self.queued += tokens
        await self._granted(waiter, deadline)
        return Turn(self, standing, tokens)

    @property
    def wait_s(self) -> float:
        """How long what is there now will take, as far as is known."""
        return self.pace.seconds(self.running + self.queued)

    def end(self, standing: Standing, tokens: int, used: int) -> None:
        """A turn is over; called by ``Turn.end``."""
        self.running -= tokens
        self.pace.done(used, busy=bool(self.running or self.queued))
        if used != tokens:
            self._ranked(standing.priority).correct(standing, tokens - used)
        self._grant()
        if not self.running and not self.queued:
            self._classes.clear()  # nobody is behind or ahead of anybody

    async def _granted(self, waiter: _Waiter, deadline: float | None) -> None:
        try:
            async with asyncio.timeout(None if deadline is None else max(0.0, deadline - time.monotonic())):
                await waiter.granted
        except BaseException as error:
            if waiter.granted.done() and not waiter.granted.cancelled():  # its turn came in the same moment
                self.running -= waiter.tokens
            else:
                waiter.granted.cancel()
                self.queued -= waiter.tokens
            self._ranked(waiter.standing.priority).correct(waiter.standing, waiter.tokens)
            self._grant()
            if isinstance(error, TimeoutError):
                raise late(self.wait_s) from None
            raise

    def _grant(self) -> None:
        """Let in who is next, as long as there is room."""
        while (found := self._next()) is not None and self._fits(found[1].tokens):
            priority, waiter = found
            ranked = self._classes[priority]
            heapq.heappop(ranked.waiting)
            ranked.virtual = max(ranked.virtual, waiter.tag)
            ranked.owed = 0
            for lower, others in self._classes.items():
                if lower < priority:
                    others.owed = others.owed + waiter.tokens if others.waiting else 0
            self.queued -= waiter.tokens
            self.running += waiter.tokens
            waiter.granted.set_result(None)

    def _next(self) -> tuple[int, _Waiter] | None:
        heads = [(priority, head) for priority in sorted(self._classes) if (head := self._classes[priority].head())]
        starved = [(p, head) for p, head in heads if self._classes[p].owed >= SCARCE * head.tokens]
        return starved[0] if starved else heads[-1] if heads else None

    def _fits(self, tokens: int) -> bool:
        return not self.running or self.running + tokens <= self._window

    def _ahead(self, waiter: _Waiter) -> int:
        """Tokens that come before this one, itself included."""
        priority = waiter.standing.priority
        higher = [w for p, ranked in self._classes.items() if p > priority for w in ranked.waiting]
        same = [w for w in self._ranked(priority).waiting if w < waiter]
        return self.running + waiter.tokens + sum(w.tokens for w in _living([*higher, *same]))

    def _ranked(self, priority: int) -> _Class:
        found = self._classes.get(priority)
        if found is None:
            found = self._classes[priority] = _Class()
        return found


def _living(waiters: list[_Waiter]) -> Iterator[_Waiter]:
    return (waiter for waiter in waiters if not waiter.granted.done())


class Lanes:
    """Turns by engine: all encoders share one batcher, a model that generates has its own scheduler."""

    def __init__(self, window: int, generating: int) -> None:
        self._window = window
        self._generating = generating
        self._encoders = Turns(window)
        self._lanes: dict[str, Turns] = {}

    def of(self, release: str, *, generates: bool) -> Turns:
        """The turns at a release's engine."""
        if not generates:
            return self._encoders
        if release not in self._lanes:
            idle = [name for name, lane in self._lanes.items() if not lane.running and not lane.queued]
            for name in idle:
                del self._lanes[name]
            self._lanes[release] = Turns(self._generating)
        return self._lanes[release]

    @property
    def queued(self) -> int:
        """Tokens that wait, in all lanes."""
        return sum(lane.queued for lane in (self._encoders, *self._lanes.values()))

    def done_in(self, seconds: float) -> float:
        """How many tokens the encoders do in that time, never less than a window; infinity where nothing is known."""
        pace = self._encoders.pace.tokens_per_second
        return math.inf if pace is None else max(self._window, pace * seconds)

    @property
    def wait_s(self) -> float:
        """How long the fullest lane will take; what the refusals of a full house tell."""
        return max((lane.wait_s for lane in (self._encoders, *self._lanes.values())), default=0.0)


def whole_seconds(seconds: float) -> int:
    """For ``Retry-After``: up, at least one second, at most a minute: by then everything is otherwise."""
    return min(60, max(1, math.ceil(seconds)))
