"""One answer on its way: token ids come in from an engine, pieces of text go out to whoever waits.

Everything that must be the same whichever engine writes is here: whole characters only, nothing that could still become
a stop string, what counts as written, and why it ended.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from feilun.models.decoder import Chance, Finish, Manner, Piece

TAIL = 16  # tokens that are waited for where a character is not whole; after that it never will be
_BROKEN = "\ufffd"  # what the bytes of half a character are read as

Tell = Callable[[Piece | BaseException], None]


@dataclass(frozen=True)
class Wrote:
    """One token that an engine wrote. ``logprob`` and ``top`` (token id, log-probability) where they were asked for."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Form(Protocol):
    """What an answer has to fit, token by token (``feilun.models.forms``)."""

    @property
    def over(self) -> bool:
        """Whether nothing can follow any more."""

    def possible(self) -> NDArray[np.bool_]:
        """(V,): the tokens that may fit; no other does."""

    def fits(self, token: int) -> bool:
        """Whether the answer could go on with this token, or end where the token ends it."""

    def add(self, token: int) -> None:
        """The answer goes on with it."""


class Answer:
    """What an engine writes into; safe to call from any thread.

    ``form``: what it has to fit, which the engine asks at every token. ``written``: the tokens that count, without the
    one that ended the answer. ``over``: nothing more is wanted.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt: Sequence[int],
        manner: Manner,
        *,
        ends: frozenset[int],
        tell: Tell,
        form: Form | None = None,
    ) -> None:
        self.prompt = list(prompt)
        self.manner = manner
        self.form = form
        self.written: list[int] = []
        self.over = False
        self._tokenizer = tokenizer
        self._ends = ends
        self._tell = tell
        self._spelling = Spelling(tokenizer)
        self._stops = Stops(manner.stop)
        self._ns = 0
        self._lock = threading.RLock()  # one that is told may stop the answer there and then

    def stop(self) -> None:
        """Nothing is told after this returns."""
        with self._lock:
            self.over = True

    def fail(self, error: BaseException) -> None:
        """It cannot go on; whoever waits is told why."""
        with self._lock:
            if not self.over:
                self._say(error)
                self.over = True

    def take(self, wrote: Sequence[Wrote], ns: int) -> None:
        """Tokens that were written, in order, and the processor time since the last call, however many they are.

        The answer is over at a token that ends it, at a stop string, and at ``manner.most`` tokens.
        """
        with self._lock:
            self._ns += ns
            if self.over or not wrote:
                return
            count, finish, text = 0, None, ""
            chances: list[Chance] = []
            for one in wrote:
                ended = one.token in self._ends
                if not ended:
                    count += 1
                    self.written.append(one.token)
                    if self.manner.logprobs is not None:
                        chances.append(self._chance(one))
                finish = self._finish(ended)
                said, hit = self._stops.push(
                    ("" if ended else self._spelling.push(one.token)) + (self._spelling.rest() if finish else ""),
                    last=finish is not None,
                )
                text += said
                if hit:
                    finish = "stop"
                if finish:
                    break
            piece = Piece(text, count, tuple(chances), finish, self._ns)
            self._ns = 0
            self._say(piece)
            self.over = self.over or finish is not None

    def _finish(self, ended: bool) -> Finish | None:
        if ended:
            return "stop"
        if self.form is not None and self.form.over:
            return "stop"
        return "length" if len(self.written) >= self.manner.most else None

    def _chance(self, one: Wrote) -> Chance:
        top = tuple((self._spell(token), logprob) for token, logprob in one.top)
        return Chance(self._spell(one.token), one.logprob or 0.0, top)

    def _spell(self, token: int) -> str:
        spelt: str = self._tokenizer.decode([token], skip_special_tokens=False)
        return spelt

    def _say(self, what: Piece | BaseException) -> None:
        try:
            self._tell(what)
        except Exception:  # noqa: BLE001 - the caller's own code; its failure must not end the answers of others
            self.over = True


class Spelling:
    """Tokens to text as they come; half a character waits for its other half."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []  # from a token before the last that was said: it decides whether a space is due
        self._said = 0  # how many of them were

    def push(self, token: int) -> str:
        """What can be said now that this token is known."""
        self._ids.append(token)
        before, now = self._text(self._ids[: self._said]), self._text(self._ids)
        if now.endswith(_BROKEN) and len(self._ids) - self._said < TAIL:
            return ""
        self._ids, self._said = self._ids[self._said :], len(self._ids) - self._said
        return now[len(before) :]

    def rest(self) -> str:
        """What waits, as far as it can be read."""
        before, now = self._text(self._ids[: self._said]), self._text(self._ids)
        self._said = len(self._ids)
        return now[len(before) :]

    def _text(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text


class Stops:
    """Text with stop strings in it, cut before the first of them."""

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = tuple(strings)
        self._held = ""

    def push(self, text: str, *, last: bool) -> tuple[str, bool]:
        """What can be said now, and whether a stop string was met.

        >>> stops = Stops(["END"])
        >>> stops.push("the E", last=False), stops.push("N", last=False), stops.push("D of it", last=False)
        (('the ', False), ('', False), ('', True))
        """
        self._held += text
        found = [at for string in self._strings if (at := self._held.find(string)) >= 0]
        if found:
            return self._held[: min(found)], True
        kept = 0 if last else max((_overlap(self._held, string) for string in self._strings), default=0)
        said, self._held = self._held[: len(self._held) - kept], self._held[len(self._held) - kept :]
        return said, False


def _overlap(text: str, string: str) -> int:
    """How many characters at the end of a text could begin the string."""
    return next((n for n in range(min(len(text), len(string) - 1), 0, -1) if text.endswith(string[:n])), 0)
