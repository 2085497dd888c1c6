"""``/v1/fine_tuning/jobs``: a model of the tenant's own, learned from files that it uploaded for that."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter
from pydantic import AfterValidator, Field, TypeAdapter
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from feilun.serve import bodies, paging
from feilun.serve.batches_routes import Metadata
from feilun.serve.bodies import Body, Word
from feilun.serve.gateway import Gateway
from feilun.serve.problems import RequestError
from feilun.serve.routing import body, only, private
from feilun.store import files, jobs

T = TypeVar("T")
ROUTE = "/v1/fine_tuning/jobs"
MOST_LISTED = 100
Auto = Literal["auto"]
Epochs = Auto | Annotated[int, Field(ge=1, le=50)]
Rate = Auto | Annotated[float, Field(gt=0, le=100)]
Beta = Auto | Annotated[float, Field(gt=0, le=2)]
_EVENT = re.compile(r"ftevent-([0-9A-Z]{26})-(\d{1,9})", re.ASCII)


class Hyperparameters(Body):
    """How long it is trained; what is "auto" is as the operator's project file has it."""

    n_epochs: Epochs = "auto"
    learning_rate_multiplier: Rate = "auto"
    batch_size: Auto = "auto"  # and nothing else: a batch here is a budget of tokens, not of rows


class DpoHyperparameters(Hyperparameters):
    """The same, and how far the model may go from what it was."""

    beta: Beta = "auto"


class Supervised(Body):
    """To answer as the file does."""

    hyperparameters: Hyperparameters = Hyperparameters()


class Dpo(Body):
    """To prefer one answer to another as the file does."""

    hyperparameters: DpoHyperparameters = DpoHyperparameters()


class Method(Body):
    """What is learned from."""

    type: Literal["supervised", "dpo"]
    supervised: Supervised | None = None
    dpo: Dpo | None = None


def _suffix(given: str | None) -> str | None:
    if given is not None and not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,17}", given):
        raise ValueError("a suffix is of a-z, 0-9 and -, at most 18 of them")
    return given


class NewJob(Body):
    """``POST /v1/fine_tuning/jobs``."""

    model: Word = Field(description="a model that you can ask: the new one goes on from it")
    training_file: Word = Field(description="a file of the purpose fine-tune")
    validation_file: Word | None = Field(None, description="one more; without it a fifth of the rows is held out")
    method: Method | None = None
    hyperparameters: Hyperparameters | None = Field(None, description="OpenAI's older place for them")
    suffix: Annotated[str | None, AfterValidator(_suffix)] = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    metadata: Metadata = None
    integrations: Annotated[list[dict[str, Any]], Field(max_length=0)] | None = None

    @property
    def said(self) -> dict[str, Any]:
        """What is kept of it."""
        method = self.method or Method(type="supervised")
        chosen = method.dpo if method.type == "dpo" else method.supervised
        found = chosen.hyperparameters if chosen is not None else self.hyperparameters or Hyperparameters()
        said = {"method": method.type, "hyperparameters": found.model_dump(), "suffix": self.suffix}
        return said | {"seed": self.seed, "metadata": self.metadata}


NEW: TypeAdapter[NewJob] = TypeAdapter(NewJob)


def jobs_routes(gateway: Gateway) -> APIRouter:
    """Jobs, and the models that come out of them, are their tenant's alone: to anybody else they are not there."""
    router = private(gateway, "files")

    async def read(job: Callable[[Connection], T]) -> T:
        def reading() -> T:
            with gateway.database.read() as connection:
                return job(connection)

        return await gateway.answering.patience.read(reading)

    async def write(job: Callable[[Connection], T], tenant: str) -> T:
        future = gateway.database.submit(job, order=tenant)
        return await gateway.answering.patience.wait(asyncio.shield(asyncio.wrap_future(future)))

    @router.post(ROUTE, summary="Have a model learn from your file", openapi_extra=body(NEW))
    async def create(request: Request) -> Response:
        only(request)
        caller = request.state.caller
        with gateway.answering.admission.space(bodies.size(request, gateway.settings)):
            new = bodies.parse(await bodies.read(request, gateway.settings), NEW)
        _check_method(new)
        base = await gateway.shelf.choose(new.model, caller.tenant)
        asked = (new.training_file, new.validation_file)
        wanted = jobs.Wanted(caller.tenant, caller.key, new.model, base.digest, *asked, new.said)

        def job(connection: Connection) -> jobs.Job:
            for name in ("training_file", "validation_file"):
                given = getattr(new, name)
                if given is not None and files.get(connection, caller.tenant, given).purpose != files.LEARNS:
                    what = "the file was not uploaded for fine-tuning"
                    raise RequestError(what, status=422, code="invalid-request", where=name)
            return jobs.create(connection, wanted)

        return JSONResponse(told(await write(job, caller.tenant)))

    @router.get(ROUTE, summary="Your jobs, newest first: ?after=ID&limit=20")
    async def listed(request: Request) -> Response:
        after, limit = paging.asked(request, usual=20, most=MOST_LISTED)
        tenant = request.state.caller.tenant
        found = await read(lambda c: jobs.listed(c, tenant, after=after, limit=limit + 1))
        return JSONResponse(paging.page([told(job) for job in found], limit))

    @router.get(ROUTE + "/{job}", summary="How far one of your jobs is")
    async def one(request: Request, job: str) -> Response:
        only(request)
        tenant = request.state.caller.tenant
        return JSONResponse(told(await read(lambda c: jobs.get(c, tenant, job))))

    @router.post(ROUTE + "/{job}/cancel", summary="End one of your jobs")
    async def cancel(request: Request, job: str) -> Response:
        only(request)
        tenant = request.state.caller.tenant
        return JSONResponse(told(await write(lambda c: jobs.cancel(c, tenant, job), tenant)))

    @router.get(ROUTE + "/{job}/events", summary="What happened in one of your jobs, newest first")
    async def events(request: Request, job: str) -> Response:
        after, limit = paging.asked(request, usual=20, most=MOST_LISTED)
        tenant, before = request.state.caller.tenant, _number(after, job)

        def reading(connection: Connection) -> list[jobs.Event]:
            jobs.get(connection, tenant, job)
            return jobs.events(connection, job, before=before, limit=limit + 1)

        return JSONResponse(paging.page([_event(event) for event in await read(reading)], limit))

    @router.get(ROUTE + "/{job}/checkpoints", summary="What one of your jobs made: the model with its best weights")
    async def checkpoints(request: Request, job: str) -> Response:
        _, limit = paging.asked(request, usual=10, most=MOST_LISTED)
        tenant = request.state.caller.tenant
        found = await read(lambda c: jobs.get(c, tenant, job))
        return JSONResponse(paging.page(_checkpoints(found), limit))

    return router


def told(job: jobs.Job) -> dict[str, Any]:
    """A job as OpenAI's API tells it; ``core_seconds`` is ours: the processor time that it took."""
    hyperparameters = job.said["hyperparameters"]
    method = job.said["method"]
    return {
        "id": job.id,
        "object": "fine_tuning.job",
        "created_at": paging.seconds(job.created_at),
        "finished_at": paging.seconds(job.finished_at),
        "model": job.model,
        "fine_tuned_model": job.served if job.state == "succeeded" else None,
        "organization_id": job.tenant,
        "status": job.state,
        "training_file": job.training_file,
        "validation_file": job.validation_file,
        "result_files": [job.result_file] if job.result_file else [],
        "trained_tokens": job.trained_tokens,
        "error": job.error,
        "hyperparameters": hyperparameters,
        "method": {"type": method, method: {"hyperparameters": hyperparameters}},
        "seed": job.said["seed"] or 0,
        "metadata": job.said["metadata"],
        "integrations": [],
        "estimated_finish": None,
        "release": job.release,
        "core_seconds": job.core_ns / 1e9,
    }


def _check_method(new: NewJob) -> None:
    """Refuse hyperparameters of a method that is not the chosen one, and those that are said twice."""
    method = new.method
    if method is None:
        return
    other = "supervised" if method.type == "dpo" else "dpo"
    if getattr(method, other) is not None:
        raise RequestError("it is of the other method", status=422, code="invalid-request", where=f"method.{other}")
    if new.hyperparameters is not None:
        what = "they are said in 'method' since there are methods"
        raise RequestError(what, status=422, code="invalid-request", where="hyperparameters")


def _event(event: jobs.Event) -> dict[str, Any]:
    return {
        "id": f"ftevent-{event.job.removeprefix('ftjob-')}-{event.number}",
        "object": "fine_tuning.job.event",
        "created_at": paging.seconds(event.at),
        "level": event.level,
        "type": event.type,
        "message": event.message,
        "data": event.data,
    }


def _number(after: str | None, job: str) -> int | None:
    """The number of the event that the page begins behind."""
    if after is None:
        return None
    found = _EVENT.fullmatch(after)
    if found is None or f"ftjob-{found[1]}" != job:
        raise RequestError("it is no event of this job", status=422, code="invalid-request", where="after")
    return int(found[2])


def _checkpoints(job: jobs.Job) -> list[dict[str, Any]]:
    if job.state != "succeeded":
        return []
    figures = job.said.get("figures", {})
    return [
        {
            "id": f"ftckpt-{job.id.removeprefix('ftjob-')}",
            "object": "fine_tuning.job.checkpoint",
            "created_at": paging.seconds(job.finished_at),
            "fine_tuned_model_checkpoint": job.served,
            "fine_tuning_job_id": job.id,
            "metrics": figures,
            "step_number": int(figures.get("step", 0)),
        }
    ]
