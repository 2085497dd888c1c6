"""The answer of a causal model on its way: prompts, each continued several times side by side, and what was said."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, cast

from feilun.errors import FeilunError, UnavailableError
from feilun.models.decoder import Chance, Decoder, Finish, Manner, Piece, Stop
from feilun.serve.answering import Computed
from feilun.serve.loading import Loaded
from feilun.serve.logs import frames, note
from feilun.store import ledger
from feilun.store.counts import Counts

Tell = Callable[[Piece | BaseException], None]
_SEEDS = 2**63


@dataclass
class Said:
    """What was written of one choice so far."""

    parts: list[str] = field(default_factory=list)
    tokens: int = 0
    chances: list[Chance] = field(default_factory=list)
    finish: Finish | None = None

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(self.parts)

    def take(self, piece: Piece) -> None:
        """Go on with a piece.

        Raises:
            UnavailableError: there is text, and nobody says how many tokens it is: what is charged is never a guess.
        """
        self.tokens += piece.tokens
        self.parts += [piece.text] if piece.text else []
        self.chances += piece.chances
        self.finish = piece.finish
        if piece.tokens < 0 or (self.parts and not self.tokens):
            raise UnavailableError(
                "the model does not say how many tokens it wrote",
                hint="whoever runs this service has to look at it",
                code="usage-missing",
            )


class Form(Protocol):
    """How a route words what was said; ``whole`` and ``part`` are what its objects are called."""

    whole: str
    part: str

    def choice(self, index: int, said: Said) -> dict[str, Any]:
        """One choice of a whole answer."""

    def opening(self, index: int) -> dict[str, Any] | None:
        """What stands before the first piece of a choice."""

    def piece(self, index: int, piece: Piece, offset: int) -> dict[str, Any]:
        """One piece of a choice, ``offset`` characters after its beginning."""

    def closing(self, index: int, finish: Finish) -> dict[str, Any]:
        """What stands behind its last."""


@dataclass(frozen=True)
class Wanted:
    """What a body asks for: ``prompts`` as ids, each continued ``n`` times; ``texts`` are what was sent."""

    texts: Sequence[str]
    prompts: Sequence[Sequence[int]]
    n: int
    manner: Manner
    form: Form
    tells_usage: bool = False  # in an event of its own, where it is a stream


class Writing:
    """One request on its way (see ``feilun.serve.answering.Work``)."""

    def __init__(self, loaded: Loaded, decoder: Decoder, wanted: Wanted) -> None:
        self.loaded = loaded
        self.texts = wanted.texts
        self.form = wanted.form
        self.said = [Said() for _ in range(len(wanted.prompts) * wanted.n)]
        self.compute_ns = 0
        self._decoder = decoder
        self.wanted = wanted
        self._stops: list[Stop] = []
        self._closed = False
        self._come: asyncio.Queue[tuple[int, Piece | BaseException]] = asyncio.Queue()

    @property
    def units(self) -> Counts:
        """What is held: the prompts, and every answer as long as it may become."""
        return self._counted(len(self.said) * self.wanted.manner.most)

    @property
    def used(self) -> Counts:
        """What was read and written so far."""
        return self._counted(sum(said.tokens for said in self.said))

    def _counted(self, tokens_out: int) -> Counts:
        prompts = self.wanted.prompts
        return Counts(1, len(prompts), sum(map(len, prompts)), tokens_out=tokens_out)

    async def pieces(self) -> AsyncGenerator[tuple[int, Piece], None]:
        """Each piece as it comes, with the number of its choice; ends when every choice has.

        Raises:
            FeilunError: the decoder refuses the manner, or cannot go on.
        """
        loop = asyncio.get_running_loop()
        come = self._come

        def told(index: int) -> Tell:
            def tell(piece: Piece | BaseException) -> None:
                loop.call_soon_threadsafe(come.put_nowait, (index, piece))

            return tell

        await asyncio.to_thread(self._begin, told)
        left = len(self.said)
        while left:
            index, piece = await come.get()
            if isinstance(piece, BaseException):
                raise piece
            self.compute_ns += piece.compute_ns
            self.said[index].take(piece)
            left -= piece.finish is not None
            yield index, piece

    def _begin(self, told: Callable[[int], Tell]) -> None:
        manner = self.wanted.manner
        for index in range(len(self.said)):
            which, turn = divmod(index, self.wanted.n)
            own = manner if manner.seed is None else replace(manner, seed=(manner.seed + turn) % _SEEDS)
            self._stops.append(self._decoder.write(self.wanted.prompts[which], own, told(index)))
            if self._closed:  # meanwhile nobody wants it any more
                self.close()

    async def compute(self) -> Computed:
        """Write all of it."""
        async for _ in self.pieces():
            pass
        return Computed(self.used, self.compute_ns, self._render)

    def _render(self, charge: ledger.Charge) -> bytes:
        choices = [self.form.choice(i, said) for i, said in enumerate(self.said)]
        head = self.head(charge.request, charge.at // 10**6, self.form.whole)
        return written(head | {"choices": choices, "usage": usage(self.used, charge)}).encode()

    def head(self, request: str, created: int, kind: str) -> dict[str, Any]:
        """What an answer and each of its events begin with."""
        loaded = self.loaded
        named = {"id": request, "object": kind, "created": created, "model": loaded.label, "release": loaded.digest}
        return named | {"system_fingerprint": f"fp_{loaded.digest[:12]}"}

    def interrupt(self, error: FeilunError) -> None:
        """Have ``pieces`` end with an error, now."""
        self._come.put_nowait((0, error))

    def close(self) -> None:
        """Stop what is still being written."""
        self._closed = True
        for stop in self._stops:
            stop()


def decoder_of(loaded: Loaded) -> Decoder:
    """The release's engine, if it writes.

    Raises:
        RequestError: 422, it does not.
    """
    loaded.must("generate", "prefer")
    return cast(Decoder, loaded.engine)


def usage(units: Counts, charge: ledger.Charge) -> dict[str, Any]:
    """Usage as clients of OpenAI's API know it, and what it cost."""
    read, wrote = units.tokens, units["tokens_out"]
    counted = {"prompt_tokens": read, "completion_tokens": wrote, "total_tokens": read + wrote}
    return counted | {"amount_nano": charge.amount_nano, "currency": charge.currency}


def written(value: Any) -> str:
    """Compact JSON without what some readers of lines take for the end of one (U+0085, U+2028, U+2029)."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("\u0085", "\\u0085").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def failure_of(error: Exception) -> FeilunError:
    """What is said of an error after a part of the answer: whose words it was made of is not told."""
    if isinstance(error, FeilunError):
        return error
    note(logging.ERROR, "unexpected", kind=type(error).__name__, frames=frames(error.__traceback__))
    return UnavailableError("the model could not go on with the answer", hint="send it again", code="model-failed")
