"""``POST /v1/predict``: what a model of named columns says of records (see ``feilun.models.tabular``)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BeforeValidator, Field, TypeAdapter
from pydantic_core import PydanticCustomError
from starlette.requests import Request
from starlette.responses import Response

from feilun.models.tabular import TASK, Tabular
from feilun.serve import bodies
from feilun.serve.answering import Answering, Computed
from feilun.serve.bodies import Body, Long, Word
from feilun.serve.gateway import Gateway
from feilun.serve.questions import tidy
from feilun.serve.routing import body, charged, only, private
from feilun.serve.shelf import Loaded
from feilun.store import ledger
from feilun.store.artifacts import canonical
from feilun.store.counts import Counts

ROUTE = "/v1/predict"
MOST_RECORDS = 1_000


def _cell(value: Any) -> Any:
    """What may stand in a column; whether it fits that column is for the model to say."""
    if isinstance(value, str):
        return _TEXT.validate_python(value)
    if value is not None and not isinstance(value, int | float):
        raise PydanticCustomError("cell", "Input should be a string, a number, true, false or null")
    return value


_TEXT: TypeAdapter[str] = TypeAdapter(Long)
Cell = Annotated[Any, BeforeValidator(_cell, json_schema_input_type=str | int | float | bool | None)]
Record = Annotated[dict[Word, Cell], Field(max_length=1_000)]


class Predict(Body):
    """Records of named columns."""

    model: Word = Field(description="a model's name, or name@ and the first digits of a release")
    records: Annotated[list[Record], Field(min_length=1, max_length=MOST_RECORDS)] = Field(
        description="each a value for every column that the model reads; null is a missing number"
    )


PREDICT: TypeAdapter[Predict] = TypeAdapter(Predict)


def predict_routes(gateway: Gateway) -> APIRouter:
    """Classes or numbers of records."""
    router = private(gateway, "classify")

    @router.post(ROUTE, summary="A class or a number for each record", openapi_extra=body(PREDICT))
    async def predict(request: Request) -> Response:
        only(request)
        with gateway.answering.admission.space(bodies.size(request, gateway.settings)):
            raw = await bodies.read(request, gateway.settings)
            asked = bodies.parse(raw, PREDICT)

            async def begin(loaded: Loaded) -> Predicting:
                loaded.must(TASK)
                engine = loaded.engine
                assert isinstance(engine, Tabular)  # what a release of this task is opened as
                rows = await asyncio.to_thread(engine.rows, asked.records)
                texts = [canonical(record).decode() for record in asked.records]
                return Predicting(gateway.answering, loaded, engine, texts, rows)

            return await charged(gateway, request, raw, asked.model, begin)

    return router


@dataclass(frozen=True)
class Predicting:
    """One request's records as rows of values."""

    answering: Answering
    loaded: Loaded
    engine: Tabular
    texts: Sequence[str]
    rows: Sequence[Sequence[Any]]  # see ``Tabular.rows``

    @property
    def units(self) -> Counts:
        """What it will be charged: records have no tokens."""
        return Counts(1, len(self.rows))

    async def compute(self) -> Computed:
        """Run the rows, in a batch with whoever else waits.

        Raises:
            DataError: the model has no answer to one of them.
        """
        scored = await self.answering.batcher.run(self.engine, self.rows)
        results = [tidy(said) for said in self.engine.answers(scored.outputs)]

        def render(charge: ledger.Charge) -> bytes:
            usage = {"inputs": self.units.inputs, "tokens": self.units.tokens}
            answer: dict[str, Any] = {
                "id": charge.request,
                "object": "prediction",
                "model": self.loaded.label,
                "release": self.loaded.digest,
                "task": self.loaded.task,
                "results": results,
                "usage": usage | {"amount_nano": charge.amount_nano, "currency": charge.currency},
            }
            return json.dumps(answer, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()

        return Computed(self.units, scored.compute_ns, render)

    def close(self) -> None:
        """Nothing was begun that would have to be stopped."""
