"""``POST /v1/moderations``: what a classifier of ours says of texts, as OpenAI's API has it.

Categories are the model's labels. A model that gives each text several labels (multilabel) has those whose score
reaches its threshold; one that gives one label (classify) has that one. What is flagged is a text with a label that is
not among those which the release says are harmless (``[serve.NAME] harmless = ["ok"]``).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BeforeValidator, Field, TypeAdapter
from pydantic_core import PydanticCustomError
from starlette.requests import Request
from starlette.responses import Response

from feilun.serve import bodies
from feilun.serve.answering import Answering, Computed
from feilun.serve.bodies import MOST_INPUTS, Body, Text, Word
from feilun.serve.gateway import Gateway
from feilun.serve.release import scores_of
from feilun.serve.routing import body, charged, only, private
from feilun.serve.shelf import Loaded
from feilun.store import ledger
from feilun.store.counts import Counts

ROUTE = "/v1/moderations"


class TextPart(Body):
    """A text as clients of models that also see pictures send it."""

    type: Literal["text"]
    text: Text


def _parts(given: Any) -> Any:
    """One text or many, or parts of the type text, as parts."""
    if isinstance(given, str):
        given = [given]
    if not isinstance(given, list):
        raise PydanticCustomError("text_or_texts", "Input should be a string or a list of strings")
    return [{"type": "text", "text": one} if isinstance(one, str) else one for one in given]


class Moderate(Body):
    """``POST /v1/moderations``."""

    model: Word
    input: Annotated[
        list[TextPart],
        Field(min_length=1, max_length=MOST_INPUTS),
        BeforeValidator(_parts, json_schema_input_type=Text | list[Text] | list[TextPart]),
    ]

    @property
    def texts(self) -> list[str]:
        """The inputs."""
        return [part.text for part in self.input]


MODERATE: TypeAdapter[Moderate] = TypeAdapter(Moderate)


def moderations_routes(gateway: Gateway) -> APIRouter:
    """Texts that somebody should look at."""
    router = private(gateway, "classify")

    @router.post(ROUTE, summary="Which of one or many texts are flagged", openapi_extra=body(MODERATE))
    async def moderate(request: Request) -> Response:
        only(request)
        with gateway.answering.admission.space(bodies.size(request, gateway.settings)):
            raw = await bodies.read(request, gateway.settings)
            asked = bodies.parse(raw, MODERATE)

            async def begin(loaded: Loaded) -> Moderating:
                loaded.must("classify", "multilabel")
                rows = await asyncio.to_thread(loaded.engine.encode, asked.texts)
                return Moderating(gateway.answering, loaded, asked.texts, rows)

            return await charged(gateway, request, raw, asked.model, begin)

    return router


@dataclass(frozen=True)
class Moderating:
    """One request's texts as rows of ids."""

    answering: Answering
    loaded: Loaded
    texts: Sequence[str]
    rows: list[list[int]]

    @property
    def units(self) -> Counts:
        """What it will be charged."""
        return Counts(1, len(self.rows), sum(map(len, self.rows)))

    async def compute(self) -> Computed:
        """Score the rows, in a batch with whoever else waits."""
        scored = await self.answering.batcher.run(self.loaded.engine, self.rows)
        results = [self._said(row.tolist()) for row in scored.outputs]

        def render(charge: ledger.Charge) -> bytes:
            usage = {"inputs": self.units.inputs, "tokens": self.units.tokens}
            answer = {
                "id": charge.request,
                "model": self.loaded.label,
                "release": self.loaded.digest,
                "results": results,
                "usage": usage | {"amount_nano": charge.amount_nano, "currency": charge.currency},
            }
            return json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode()

        return Computed(self.units, scored.compute_ns, render)

    def _said(self, row: list[float]) -> dict[str, Any]:
        engine, loaded = self.loaded.engine, self.loaded
        scores = scores_of(engine.labels, row)
        if loaded.task == "multilabel":
            threshold = float(engine.decided.get("threshold", 0.5))
            has = {label for label, score in zip(engine.labels, row, strict=True) if score >= threshold}
        else:
            has = {next(iter(scores))}
        return {
            "flagged": bool(has - loaded.harmless),
            "categories": {label: label in has for label in scores},
            "category_scores": scores,
            "category_applied_input_types": {label: ["text"] for label in scores},
        }

    def close(self) -> None:
        """Nothing was begun that would have to be stopped."""
