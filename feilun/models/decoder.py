"""What a causal language model is to a gateway: it continues many prompts at once, each in its own manner."""

from __future__ import annotations

import queue
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

from feilun.errors import SettingError
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

    ``head`` is "words", ``labels`` are none: engines of other tasks have these too.
    ``context``: the most tokens of a prompt and its answer together. ``adapters``: names that a manner may have.
    """

    head: str
    labels: tuple[str, ...]
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

_Told = queue.SimpleQueue[tuple[int, Piece | BaseException]]
MOST_TOP = 20  # of the likeliest tokens that are told beside one
_ABILITIES = {  # what not every decoder can do: the field of a request that asks for it
    "penalties": "frequency_penalty",
    "logprobs": "logprobs",
    "top_logprobs": "top_logprobs",
    "schema": "response_format",
}


def admit(
    prompt: Sequence[int],
    manner: Manner,
    *,
    context: int,
    size: int,
    can: Collection[str],
    adapters: Collection[str],
) -> None:
    """Refuse what a decoder cannot write, before anything is begun.

    Args:
        size: how many token ids there are.
        can: of penalties, logprobs, top_logprobs and schema.

    Raises:
        SettingError: ``where`` is the field as callers of OpenAI's routes know it.
    """
    wanted = {
        "penalties": bool(manner.frequency_penalty or manner.presence_penalty),
        "logprobs": manner.logprobs is not None,
        "top_logprobs": bool(manner.logprobs),
        "schema": manner.schema is not None,
    }
    for ability, asked in wanted.items():
        if asked and ability not in can:
            raise _refused("the engine of this model cannot do that", _ABILITIES[ability], "leave it out")
    if manner.adapter is not None and manner.adapter not in adapters:
        raise _refused("the model has no such adapter", "model", None)
    if not prompt:
        raise _refused("there is nothing to continue", "prompt", "at least one token")
    if not all(0 <= token < size for token in prompt):
        raise _refused("a token id is none of the model's", "prompt", f"0 to {size - 1}")
    if manner.most < 1:
        raise _refused("an answer has at least one token", "max_tokens", None)
    if len(prompt) + manner.most > context:
        raise _refused(
            f"the prompt has {len(prompt)} tokens and the answer may have {manner.most}, together more than the "
            f"model's context of {context}",
            "max_tokens" if len(prompt) < context else "messages",
            f"at most {context - len(prompt)} tokens of an answer" if len(prompt) < context else "a shorter prompt",
        )
    _check_numbers(manner)


def _check_numbers(manner: Manner) -> None:
    ranges = {
        "temperature": (manner.temperature, 0.0, 2.0),
        "top_p": (manner.top_p, 0.0, 1.0),
        "frequency_penalty": (manner.frequency_penalty, -2.0, 2.0),
        "presence_penalty": (manner.presence_penalty, -2.0, 2.0),
        "top_logprobs": (manner.logprobs or 0, 0, MOST_TOP),
    }
    for name, (value, low, high) in ranges.items():
        if not low <= value <= high:  # NaN must not pass
            raise _refused(f"it has to be from {low} to {high}", name, None)
    if not all(manner.stop):
        raise _refused("a stop string is empty", "stop", None)


def _refused(what: str, where: str, hint: str | None) -> SettingError:
    return SettingError(what, where=where, hint=hint, code="invalid-request")


def written(decoder: Decoder, prompts: Sequence[Sequence[int]], manner: Manner) -> list[list[Piece]]:
    """Continue prompts side by side, and wait: the pieces of each answer.

    Raises:
        SettingError: see ``Decoder.write``.
        FeilunError: what the decoder failed with.
    """
    told: _Told = queue.SimpleQueue()
    stops = [decoder.write(prompt, manner, partial(_tell, told, i)) for i, prompt in enumerate(prompts)]
    found: list[list[Piece]] = [[] for _ in prompts]
    left = len(prompts)
    while left:
        number, piece = told.get()
        if isinstance(piece, BaseException):
            for stop in stops:
                stop()
            raise piece
        found[number].append(piece)
        left -= piece.finish is not None
    return found


def _tell(told: _Told, number: int, piece: Piece | BaseException) -> None:
    told.put((number, piece))
