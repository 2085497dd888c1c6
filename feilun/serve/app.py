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
from feilun.serve import problems
from feilun.serve.answering import Answering
from feilun.serve.classify_routes import classify_routes
from feilun.serve.delivering import delivering
from feilun.serve.events_routes import events_routes
from feilun.serve.feedback_routes import feedback_routes
from feilun.serve.gateway import Gateway
from feilun.serve.guard import Guard
from feilun.serve.health_routes import health_routes
from feilun.serve.margin_routes import margin_routes
from feilun.serve.models_routes import models_routes
from feilun.serve.office_routes import signed_routes
from feilun.serve.products_routes import products_routes
from feilun.serve.settings import GatewaySettings
from feilun.serve.shelf import Shelf
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
    return Gateway(store.database, keyring, shelf, answering, plan, settings)


def create_app(gateway: Gateway) -> FastAPI:
    """The ASGI application, deny by default: every router but the health checks' needs a key."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with contextlib.suppress(UnavailableError):  # readyz stays red until the database is there
            await asyncio.to_thread(gateway.shelf.refresh)
        spending = gateway.shelf.spending.follow(gateway.database, gateway.settings.sample_s)
        forever = (gateway.shelf.follow(), gateway.answering.reap(), spending)
        tasks = [asyncio.create_task(work) for work in forever]
        with delivering(gateway.office):
            yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        gateway.answering.batcher.close()

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
        health_routes,
        models_routes,
        classify_routes,
        feedback_routes,
        usage_routes,
        metrics_routes,
        events_routes,
        margin_routes,
        products_routes,
        signed_routes,
    ):
        app.include_router(routes(gateway))
    app.add_exception_handler(FeilunError, problems.from_feilun)
    app.add_exception_handler(HTTPException, problems.from_framework)
    admission, metrics = gateway.answering.admission, gateway.metrics
    metrics.gauge("feilun_requests_inside", "Requests inside now", lambda: admission.requests)
    metrics.gauge("feilun_tokens_inside", "Tokens waiting or worked on now", lambda: admission.tokens)
    metrics.gauge("feilun_engine_runs", "Runs of the engine", lambda: gateway.answering.batcher.batches)
    metrics.gauge("feilun_release_load_failures", "Releases not loaded", lambda: gateway.shelf.failures)
    app.add_middleware(Guard, settings=gateway.settings, metrics=gateway.metrics, admission=admission)
    return app
