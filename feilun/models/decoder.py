"""What a causal language model is to a gateway: it continues many prompts at once, each in its own manner."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from feilun.models.chat import Message

Finish = Literal["stop", "length"]  # its own end or a stop string; or as many tokens as were asked for


@dataclass(frozen=True)
class Manner:
    """How one answer is to be written. ``temperature`` 0 is greedy; ``schema`` is a JSON schema that it has to fit;
    ``logprobs``: for each token, how many of the likeliest are told beside it, None for no probabilities at all."""

    most: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logprobs: int | None = None
    schema: str | None = None
    adapter: str | None = None


@dataclass(frozen=True)
class Chance:
    """One token that was written, its log-probability, and the likeliest ones in its place with theirs."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Piece:
    """What was written since the piece before. ``text`` holds whole characters and nothing that could still become a
    stop string; so a piece may have tokens and no text yet. The last piece of an answer has ``finish``.

    ``compute_ns``: processor time since the piece before, this answer's share of it.
    """

    text: str
    tokens: int
    chances: tuple[Chance, ...] = ()
    finish: Finish | None = None
    compute_ns: int = 0


class Decoder(Protocol):
    """Safe to call from any thread; answers are written side by side.

    ``context``: the most tokens of a prompt and its answer together. ``adapters``: names that a manner may have.
    """

    context: int
    adapters: frozenset[str]

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """A conversation as the ids that the model's own chat template makes of it, ready to be answered.

        Raises:
            DataError: the template refuses the messages, or there is no template.
        """

    def encode(self, text: str) -> list[int]:
        """A text as ids, special tokens only where the tokenizer itself puts them: a user's words make none."""

    def write(self, prompt: Sequence[int], manner: Manner, tell: Callable[[Piece | BaseException], None]) -> Stop:
        """Begin to continue a prompt, and return at once.

        Args:
            tell: called from a thread of the decoder's with each piece in order; with an exception if it fails.

        Raises:
            SettingError: the manner has something that this decoder cannot do, or prompt and answer are too long.
        """

    def close(self) -> None:
        """Free what it holds; answers that are being written end with an exception."""


Stop = Callable[[], None]  # ends the answer early: no piece comes after it returns
