"""``POST /v1/embeddings``: a vector for each text, as OpenAI's API has it."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, TypeAdapter
from starlette.requests import Request
from starlette.responses import Response

from feilun.serve import bodies
from feilun.serve.answering import Answering, Computed
from feilun.serve.bodies import Body, Text, Word
from feilun.serve.gateway import Gateway
from feilun.serve.problems import RequestError
from feilun.serve.routing import body, charged, only, private
from feilun.serve.shelf import Loaded
from feilun.store import ledger
from feilun.store.counts import Counts

ROUTE = "/v1/embeddings"
MOST_TEXTS = 2_048


class Embed(Body):
    """``POST /v1/embeddings``."""

    model: Word
    input: Annotated[
        list[Text],
        Field(min_length=1, max_length=MOST_TEXTS),
        BeforeValidator(bodies.listed, json_schema_input_type=Text | list[Text]),
    ]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1, le=65_536)] | None = None
    user: Word | None = None


EMBED: TypeAdapter[Embed] = TypeAdapter(Embed)


def embeddings_routes(gateway: Gateway) -> APIRouter:
    """Vectors of texts."""
    router = private(gateway, "classify")

    @router.post(ROUTE, summary="A vector for each of one or many texts", openapi_extra=body(EMBED))
    async def embed(request: Request) -> Response:
        only(request)
        with gateway.answering.admission.space(bodies.size(request, gateway.settings)):
            raw = await bodies.read(request, gateway.settings)
            asked = bodies.parse(raw, EMBED)

            async def begin(loaded: Loaded) -> Embedding:
                loaded.must("embed")
                rows = await asyncio.to_thread(loaded.engine.encode, asked.input)
                return Embedding(gateway.answering, loaded, asked, rows)

            return await charged(gateway, request, raw, asked.model, begin)

    return router


@dataclass(frozen=True)
class Embedding:
    """One request's texts as rows of ids. What the engine puts out is the vector, of length 1 (``tasks.embed``)."""

    answering: Answering
    loaded: Loaded
    asked: Embed
    rows: list[list[int]]

    @property
    def texts(self) -> Sequence[str]:
        """What was sent."""
        return self.asked.input

    @property
    def units(self) -> Counts:
        """What it will be charged."""
        return Counts(1, len(self.rows), sum(map(len, self.rows)))

    async def compute(self) -> Computed:
        """Run the rows, in a batch with whoever else waits.

        Raises:
            RequestError: vectors of this model have other dimensions than were asked for.
        """
        scored = await self.answering.batcher.run(self.loaded.engine, self.rows)
        size = len(scored.outputs[0])
        if self.asked.dimensions not in (None, size):
            raise RequestError(
                f"vectors of this model have {size} dimensions", status=422, code="invalid-request", where="dimensions"
            )
        said = [self._said(row) for row in scored.outputs]

        def render(charge: ledger.Charge) -> bytes:
            tokens = self.units.tokens
            usage = {"prompt_tokens": tokens, "total_tokens": tokens}
            answer = {
                "id": charge.request,
                "object": "list",
                "model": self.loaded.label,
                "release": self.loaded.digest,
                "data": [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(said)],
                "usage": usage | {"amount_nano": charge.amount_nano, "currency": charge.currency},
            }
            return json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode()

        return Computed(self.units, scored.compute_ns, render)

    def _said(self, row: NDArray[np.float32]) -> Any:
        if self.asked.encoding_format == "base64":
            return base64.b64encode(row.astype("<f4").tobytes()).decode()
        return row.tolist()

    def close(self) -> None:
        """Nothing was begun that would have to be stopped."""
