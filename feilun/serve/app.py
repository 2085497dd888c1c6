"""The HTTP application."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping

from fastapi import FastAPI
from starlette.exceptions import HTTPException

from feilun.accounts.access import Keyring
from feilun.accounts.terms import Schedule, Terms
from feilun.errors import FeilunError, UnavailableError, did_you_mean
from feilun.serve import problems, tracing
from feilun.serve.answering import Answering
from feilun.serve.batch_work import Batches
from feilun.serve.batches_routes import batches_routes
from feilun.serve.chat_routes import chat_routes
from feilun.serve.classify_routes import classify_routes
from feilun.serve.completions_routes import completions_routes
from feilun.serve.delivering import delivering
from feilun.serve.embeddings_routes import embeddings_routes
from feilun.serve.events_routes import events_routes
from feilun.serve.extract_routes import extract_routes
from feilun.serve.feedback_routes import feedback_routes
from feilun.serve.files_routes import files_routes
from feilun.serve.gateway import Gateway
from feilun.serve.gathering import EVERY_S, Crew
from feilun.serve.guard import Guard
from feilun.serve.health_routes import health_routes
from feilun.serve.jobs_routes import jobs_routes
from feilun.serve.margin_routes import margin_routes
from feilun.serve.metrics import Metrics
from feilun.serve.models_routes import models_routes
from feilun.serve.moderations_routes import moderations_routes
from feilun.serve.office_routes import signed_routes
from feilun.serve.predict_routes import predict_routes
from feilun.serve.products_routes import products_routes
from feilun.serve.rank_routes import rank_routes
from feilun.serve.releases_routes import governing_routes, releases_routes
from feilun.serve.score_routes import score_routes
from feilun.serve.settings import GatewaySettings
from feilun.serve.shelf import Shelf
from feilun.serve.supervisor import FOLDER, NUMBER
from feilun.serve.tag_routes import tag_routes
from feilun.serve.usage_routes import metrics_routes, usage_routes
from feilun.store.artifacts import ArtifactStore


def make_gateway(
    store: ArtifactStore, pepper: bytes, plans: Mapping[str, Schedule], settings: GatewaySettings
) -> Gateway:
    """What the routes work with, from what is stored and configured.

    Raises:
        SettingError: the pepper is too short.
    """
    keyring = Keyring(store.database, pepper)
    shelf = Shelf(store, settings)

    def plan(name: str, at: int) -> Terms:
        if name not in plans:
            raise UnavailableError(
                f"the plan '{name}' has no prices here", hint=did_you_mean(name, plans), code="unknown-plan"
            )
        return plans[name].at(at)

    answering = Answering(store.database, keyring, shelf, plan, settings)
    metrics = Metrics(Crew.from_environment(FOLDER, NUMBER))
    spans = tracing.from_environment()
    return Gateway(store.database, keyring, shelf, answering, plan, settings, metrics, tracing=spans)


def create_app(gateway: Gateway) -> FastAPI:
    """The ASGI application, deny by default: every router but the health checks' needs a key."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with contextlib.suppress(UnavailableError):  # readyz stays red until the database is there
            await gateway.shelf.refresh()
        spending = gateway.shelf.spending.follow(gateway.database, gateway.settings.sample_s)
        shadowing = gateway.answering.shadowing
        shadowing.metrics = gateway.metrics
        forever = (
            gateway.shelf.follow(),
            Batches(app, gateway).follow(),
            shadowing.follow(gateway.database),
            gateway.answering.reap(),
            spending,
            _publish(gateway),
        )
        tasks = [asyncio.create_task(work) for work in forever]
        with delivering(gateway.office):
            yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await gateway.answering.finish()
        await shadowing.flush(gateway.database)
        gateway.answering.batcher.close()
        gateway.shelf.close()
        if gateway.tracing is not None:
            await asyncio.to_thread(gateway.tracing.close)

    app = FastAPI(
        title="feilun",
        summary="Answers, metered",
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    for routes in (
        classify_routes,  # first, for they are tried in this order
        health_routes,
        models_routes,
        releases_routes,
        governing_routes,
        chat_routes,
        completions_routes,
        embeddings_routes,
        moderations_routes,
        tag_routes,
        extract_routes,
        rank_routes,
        score_routes,
        predict_routes,
        feedback_routes,
        usage_routes,
        metrics_routes,
        events_routes,
        margin_routes,
        products_routes,
        files_routes,
        batches_routes,
        jobs_routes,
        signed_routes,
    ):
        app.include_router(routes(gateway))
    app.add_exception_handler(FeilunError, problems.from_feilun)
    app.add_exception_handler(HTTPException, problems.from_framework)
    answering, metrics = gateway.answering, gateway.metrics
    admission = answering.admission
    metrics.gauge("feilun_requests_inside", "Requests inside now", lambda: admission.requests)
    metrics.gauge("feilun_tokens_inside", "Tokens waiting or worked on now", lambda: admission.tokens)
    metrics.gauge("feilun_engine_runs", "Runs of the engine", lambda: gateway.answering.batcher.batches)
    metrics.gauge("feilun_release_load_failures", "Releases not loaded", lambda: gateway.shelf.failures)
    metrics.gauge("feilun_release_bytes", "Size of all releases that are loaded", lambda: gateway.shelf.size)
    metrics.gauge("feilun_release_evictions", "Releases let go for want of memory", lambda: gateway.shelf.evictions)
    metrics.gauge("feilun_engine_failures", "Engines that failed at a request", lambda: answering.engine_failures)
    metrics.gauge("feilun_cache_bytes", "Size of the answers that may be given again", lambda: answering.cache.size)
    metrics.gauge("feilun_tokens_queued", "Tokens that wait for their turn", lambda: gateway.answering.lanes.queued)
    metrics.gauge("feilun_refused", "Requests refused because the house was full", lambda: admission.refused)
    app.add_middleware(Guard, settings=gateway.settings, metrics=metrics, admission=admission, tracing=gateway.tracing)
    return app


async def _publish(gateway: Gateway) -> None:
    """Let the other workers tell this one's figures with theirs, for ever."""
    while gateway.metrics.crew is not None:
        answering = {name: loaded.digest for name, loaded in gateway.shelf.loaded.items()}
        await asyncio.to_thread(gateway.metrics.crew.publish, gateway.metrics.own(answering))
        await asyncio.sleep(EVERY_S)
