"""Questions that a task answers itself: read, checked against what the task reads, relayed, and told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import Response

from feilun.serve import bodies, relaying
from feilun.serve.answering import Answering
from feilun.serve.gateway import Gateway
from feilun.serve.problems import RequestError
from feilun.serve.questions import Question
from feilun.serve.routing import charged, only
from feilun.serve.shelf import Loaded
from feilun.store import ledger
from feilun.store.counts import Counts

if TYPE_CHECKING:
    import polars as pl

    from feilun.tasks.task import Task


@dataclass(frozen=True)
class Form:
    """What the answers of a route are called, and which models can give them."""

    name: str
    tasks: tuple[str, ...]


async def answer(gateway: Gateway, request: Request, shape: TypeAdapter[Any], form: Form) -> Response:
    """Read a question of ``shape`` and answer it, charged.

    Raises:
        FeilunError: refused, and not charged.
    """
    only(request)
    with gateway.answering.admission.space(bodies.size(request, gateway.settings)):
        raw = await bodies.read(request, gateway.settings)
        asked: Question = bodies.parse(raw, shape)

        async def begin(loaded: Loaded) -> relaying.Relaying:
            return await relay(gateway.answering, loaded, asked, form)

        return await charged(gateway, request, raw, asked.model, begin)


async def relay(answering: Answering, loaded: Loaded, asked: Question, form: Form) -> relaying.Relaying:
    """Have a model's own task answer a question, up to its tokens.

    Raises:
        RequestError: 422, the model was tuned for another task, or reads other columns.
    """
    loaded.must(*form.tasks)
    frame = await asyncio.to_thread(_frame, loaded.task, asked.columns())

    def render(said: list[dict[str, Any]], units: Counts, charge: ledger.Charge) -> bytes:
        usage = {"inputs": units.inputs, "tokens": units.tokens}
        told = {
            "id": charge.request,
            "object": form.name,
            "model": loaded.label,
            "release": loaded.digest,
            "task": loaded.task,
            "results": asked.said(said),
            "usage": usage | {"amount_nano": charge.amount_nano, "currency": charge.currency},
        }
        return json.dumps(told, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()

    return await relaying.begin(answering, loaded, frame, render)


def _frame(name: str, columns: Mapping[str, list[Any]]) -> pl.DataFrame:
    """What a task reads, as a table. In a thread: the first time it imports what that takes."""
    import polars as pl

    from feilun import tasks
    from feilun.tasks.task import ReadsMore

    task: Task = tasks.get(name)
    may = task.MAY_READ if isinstance(task, ReadsMore) else ()
    for column in task.READS:
        if column not in columns:
            raise _unfit(f"the model reads '{column}' beside each input", column)
    for column in columns:
        if column not in (*task.READS, *may):
            raise _unfit(f"the model does not read '{column}'", column)
    kinds = {"candidates": pl.List(pl.String)}
    return pl.DataFrame([pl.Series(n, values, kinds.get(n, pl.String)) for n, values in columns.items()])


def _unfit(what: str, where: str) -> RequestError:
    return RequestError(
        what, status=422, code="invalid-request", where=where, hint="GET /v1/models has each one's task"
    )
