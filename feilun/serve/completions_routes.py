"""``POST /v1/completions``: how texts go on, whole or as a stream, as OpenAI's API has it."""

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
from feilun.serve.problems import RequestError
from feilun.serve.routing import asked as asking
from feilun.serve.routing import body, charged, only, private
from feilun.serve.streaming import Channel, streamed, writer
from feilun.serve.writing import Said, Wanted, Writing, decoder_of
from feilun.serve.writing_bodies import COMPLETE, MOST_PROMPTS, Complete, most_of

ROUTE = "/v1/completions"
USUAL = 16  # tokens of an answer where nothing is said, as OpenAI's API has it
_LEAST = -9999.0


def completions_routes(gateway: Gateway) -> APIRouter:
    """Texts that go on."""
    router = private(gateway, "generate")

    @router.post(ROUTE, summary="How one or many texts go on", openapi_extra=body(COMPLETE))
    async def complete(request: Request) -> Response:
        only(request)
        with gateway.answering.admission.space(bodies.size(request, gateway.settings)):
            raw = await bodies.read(request, gateway.settings)
            asked = await asyncio.to_thread(bodies.parse, raw, COMPLETE)

            channel = Channel()

            async def begin(loaded: Loaded) -> Writing:
                request.state.model = loaded.name
                decoder = decoder_of(loaded)
                wanted = await asyncio.to_thread(_wanted, decoder, asked)
                return writer(gateway, loaded, decoder, wanted, channel if asked.stream else None)

            if not asked.stream:
                return await charged(gateway, request, raw, asked.model, begin)
            return await streamed(gateway, request, asking(request, raw, asked.model, begin), channel)

    return router


def _wanted(decoder: Decoder, asked: Complete) -> Wanted:
    n = asked.n or 1
    if n * len(asked.prompt) > MOST_PROMPTS:
        raise RequestError(
            f"{n} answers to each of {len(asked.prompt)} prompts are too many",
            status=422,
            code="invalid-request",
            where="n",
            hint=f"at most {MOST_PROMPTS} answers in one request",
        )
    prompts = [decoder.encode(text) for text in asked.prompt]
    if not all(prompts):
        raise RequestError("the prompt has no token", status=422, code="invalid-request", where="prompt")
    where = "prompt" if asked.max_tokens is None else "max_tokens"
    most = most_of(asked.max_tokens, USUAL, prompts, decoder.context, where)
    manner = asked.manner(most, logprobs=asked.logprobs)
    return Wanted(asked.prompt, prompts, n, manner, TextForm(told=asked.logprobs is not None), asked.tells_usage)


class TextForm:
    """How texts are worded; ``told``: with probabilities."""

    whole = "text_completion"
    part = "text_completion"

    def __init__(self, *, told: bool) -> None:
        self._told = told

    def choice(self, index: int, said: Said) -> dict[str, Any]:
        """See ``feilun.serve.writing.Form``."""
        return _choice(index, said.text, self._chances(said.chances, 0), said.finish)

    def opening(self, index: int) -> None:
        """Nothing."""

    def piece(self, index: int, piece: Piece, offset: int) -> dict[str, Any]:
        """What was said."""
        return _choice(index, piece.text, self._chances(piece.chances, offset))

    def closing(self, index: int, finish: Finish) -> dict[str, Any]:
        """Why it ended."""
        return _choice(index, "", finish=finish)

    def _chances(self, chances: Sequence[Chance], offset: int) -> dict[str, Any] | None:
        if not self._told:
            return None
        offsets = []
        for chance in chances:
            offsets.append(offset)
            offset += len(chance.token)
        return {
            "tokens": [c.token for c in chances],
            "token_logprobs": [max(c.logprob, _LEAST) for c in chances],
            "top_logprobs": [{token: max(logprob, _LEAST) for token, logprob in c.top} for c in chances],
            "text_offset": offsets,
        }


def _choice(
    index: int, text: str, logprobs: dict[str, Any] | None = None, finish: Finish | None = None
) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}
