"""``POST /v1/chat/completions``: the next message of a conversation, whole or as a stream, as OpenAI's API has it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from feilun.models.decoder import Chance, Decoder, Finish, Piece
from feilun.serve import bodies
from feilun.serve.gateway import Gateway
from feilun.serve.loading import Loaded
from feilun.serve.routing import asked as asking
from feilun.serve.routing import body, charged, only, private
from feilun.serve.streaming import Channel, streamed, writer
from feilun.serve.writing import Said, Wanted, Writing, decoder_of
from feilun.serve.writing_bodies import CHAT, Chat, most_of

ROUTE = "/v1/chat/completions"
_LEAST = -9999.0  # what OpenAI's API says of a token that cannot be: JSON has no minus infinity


def chat_routes(gateway: Gateway) -> APIRouter:
    """Conversations."""
    router = private(gateway, "generate")

    @router.post(ROUTE, summary="The next message of a conversation", openapi_extra=body(CHAT))
    async def chat(request: Request) -> Response:
        only(request)
        with gateway.answering.admission.space(bodies.size(request, gateway.settings)):
            raw = await bodies.read(request, gateway.settings)
            asked = await asyncio.to_thread(bodies.parse, raw, CHAT)

            channel = Channel()

            async def begin(loaded: Loaded) -> Writing:
                request.state.model = loaded.name
                decoder = decoder_of(loaded)
                wanted = await asyncio.to_thread(_wanted, gateway, decoder, asked)
                return writer(gateway, loaded, decoder, wanted, channel if asked.stream else None)

            if not asked.stream:
                return await charged(gateway, request, raw, asked.model, begin)
            return await streamed(gateway, request, asking(request, raw, asked.model, begin), channel)

    return router


def _wanted(gateway: Gateway, decoder: Decoder, asked: Chat) -> Wanted:
    messages = [message.plain for message in asked.messages]
    prompt = decoder.prompt(messages)
    where = "max_tokens" if asked.max_completion_tokens is None else "max_completion_tokens"
    given = asked.max_tokens if asked.max_completion_tokens is None else asked.max_completion_tokens
    usual = gateway.settings.answer_tokens
    most = most_of(given, usual, [prompt], decoder.context, "messages" if given is None else where)
    logprobs = (asked.top_logprobs or 0) if asked.logprobs else None
    schema = asked.response_format.schema_text if asked.response_format else None
    manner = asked.manner(most, logprobs=logprobs, schema=schema)
    texts = [message["content"] for message in messages]
    return Wanted(texts, [prompt], asked.n or 1, manner, ChatForm(told=logprobs is not None), asked.tells_usage)


class ChatForm:
    """How messages are worded; ``told``: with probabilities."""

    whole = "chat.completion"
    part = "chat.completion.chunk"

    def __init__(self, *, told: bool) -> None:
        self._told = told

    def choice(self, index: int, said: Said) -> dict[str, Any]:
        """See ``feilun.serve.writing.Form``."""
        message = {"role": "assistant", "content": said.text, "refusal": None}
        return {
            "index": index,
            "message": message,
            "logprobs": self._chances(said.chances),
            "finish_reason": said.finish,
        }

    def opening(self, index: int) -> dict[str, Any]:
        """Who speaks."""
        return _delta(index, {"role": "assistant", "content": "", "refusal": None})

    def piece(self, index: int, piece: Piece, offset: int) -> dict[str, Any]:
        """What was said."""
        return _delta(index, {"content": piece.text}, self._chances(piece.chances))

    def closing(self, index: int, finish: Finish) -> dict[str, Any]:
        """Why it ended."""
        return _delta(index, {}, finish=finish)

    def _chances(self, chances: Sequence[Chance]) -> dict[str, Any] | None:
        if not self._told:
            return None
        content = [
            _token(c.token, c.logprob) | {"top_logprobs": [_token(token, logprob) for token, logprob in c.top]}
            for c in chances
        ]
        return {"content": content, "refusal": None}


def _delta(
    index: int, delta: dict[str, Any], logprobs: dict[str, Any] | None = None, finish: Finish | None = None
) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}


def _token(token: str, logprob: float) -> dict[str, Any]:
    """``bytes`` are null for a part of a character: its text is not what was written."""
    known = None if "\ufffd" in token else list(token.encode())
    return {"token": token, "logprob": max(logprob, _LEAST), "bytes": known}
