"""How fast an engine works, measured while it has something to do."""

from __future__ import annotations

import time

SPAN_S = 0.25  # of busy time in one measurement
WEIGHT = 0.3  # of the newest measurement


class Pace:
    """Tokens a second, over the last seconds in which there was work; nothing is known before the first of them."""

    def __init__(self) -> None:
        self.tokens_per_second: float | None = None
        self._tokens = 0
        self._since: float | None = None  # when what is measured now began

    def done(self, tokens: int, *, busy: bool) -> None:
        """So many tokens are done; ``busy``: others still wait or are worked on."""
        now = time.monotonic()
        if self._since is None:
            self._since = now if busy else None  # the first end of a busy time begins the measurement
            return
        self._tokens += tokens
        if now - self._since >= SPAN_S:
            newest = self._tokens / (now - self._since)
            known = self.tokens_per_second
            self.tokens_per_second = newest if known is None else (1 - WEIGHT) * known + WEIGHT * newest
            self._tokens, self._since = 0, now
        if not busy:
            self._tokens, self._since = 0, None

    def seconds(self, tokens: int) -> float:
        """How long so many tokens take; 0 where nothing is known."""
        return tokens / self.tokens_per_second if self.tokens_per_second else 0.0
