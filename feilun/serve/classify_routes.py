"""``POST /v1/classify``: the route that has to cost nothing, so it does no work that it need not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import APIRouter
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from feilun.models.inference import Engine
from feilun.serve import asking, bodies, questions
from feilun.serve.answering import Answering, Computed, Work
from feilun.serve.gateway import Gateway
from feilun.serve.release import scores_of
from feilun.serve.routing import body, charged, only, private
from feilun.serve.shelf import Loaded
from feilun.store import ledger
from feilun.store.counts import Counts

ROUTE = "/v1/classify"
AT_ONCE = 1_000  # characters, tokenised in a few tenths of a millisecond
FORM = asking.Form("classification", ("classify", "multilabel", "pair"))  # all but the first are relayed


def classify_routes(gateway: Gateway) -> APIRouter:
    """Labels of texts."""
    router = private(gateway, "classify")

    @router.post(ROUTE, summary="Classify one or many inputs", openapi_extra=body(questions.PAIRS))
    async def classify(request: Request) -> Response:
        only(request)
        with gateway.answering.admission.space(bodies.size(request, gateway.settings)):
            raw = await bodies.read(request, gateway.settings)
            asked = bodies.parse(raw, questions.PAIRS)

            async def begin(loaded: Loaded) -> Work:
                if loaded.task != "classify" or asked.other is not None:
                    return await asking.relay(gateway.answering, loaded, asked, FORM)
                rows = await encode(loaded.engine, asked.texts)
                return Classifying(gateway.answering, loaded, asked.texts, rows)

            return await charged(gateway, request, raw, asked.model, begin)

    return router


async def encode(engine: Engine, texts: Sequence[str]) -> list[list[int]]:
    """Token ids: of much text in a thread, of little at once, for to hand it over and back takes longer than that."""
    if sum(map(len, texts)) <= AT_ONCE:
        return engine.encode(texts)
    return await asyncio.to_thread(engine.encode, texts)


@dataclass(frozen=True)
class Classifying:
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
        results = [self._said(row) for row in scored.outputs]

        def render(charge: ledger.Charge) -> bytes:
            usage = {"inputs": self.units.inputs, "tokens": self.units.tokens}
            answer = {
                "id": charge.request,
                "object": "classification",
                "model": self.loaded.label,
                "release": self.loaded.digest,
                "results": results,
                "usage": usage | {"amount_nano": charge.amount_nano, "currency": charge.currency},
            }
            return json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode()

        return Computed(self.units, scored.compute_ns, render)

    def _said(self, row: NDArray[np.float32]) -> dict[str, Any]:
        scores = scores_of(self.loaded.engine.labels, row.tolist())
        label = next(iter(scores))
        return {"label": label, "score": scores[label], "scores": scores}

    def close(self) -> None:
        """Nothing was begun that would have to be stopped."""
