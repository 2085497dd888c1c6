"""Which release answers under which name, and changing that.

Who may ask a model may see its releases and their history. Changing needs the scope ``admin``: a release is loaded,
warmed up and made to answer its probes here before the name's pointer is compared and set, so one that cannot answer
never becomes what others are told to load.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter
from pydantic import Field, TypeAdapter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from feilun.errors import AccessError, SettingError
from feilun.serve import bodies
from feilun.serve.bodies import Body, Word
from feilun.serve.gateway import Gateway
from feilun.serve.problems import RequestError
from feilun.serve.routing import body, only, private
from feilun.serve.shelf import NotLoadedError, not_found
from feilun.store import releases, rollouts
from feilun.store.database import Database

T = TypeVar("T")
MOST_TENANTS = 1_000
_Digits = Annotated[str, Field(pattern=r"^[0-9a-f]{8,64}$")]
_Version = Annotated[int, Field(ge=0, lt=2**53)]
_Reason = Annotated[str, Field(min_length=1, max_length=500)]


class Promotion(Body):
    """``POST /v1/releases/{name}/promote``."""

    release: _Digits = Field(description="the first digits of a release of that name, at least 8")
    expected_version: _Version | None = Field(None, description="the pointer's version that you saw; 0 for none yet")
    reason: _Reason = Field("over HTTP", description="kept in the history")


class Return(Body):
    """``POST /v1/releases/{name}/rollback``."""

    expected_version: _Version | None = Field(None, description="the pointer's version that you saw")
    reason: _Reason = "rolled back over HTTP"


class Rollout(Body):
    """``POST /v1/releases/{name}/canary`` and ``/shadow``."""

    release: _Digits | None = Field(description="the first digits of a release of that name; null ends it")
    share: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = Field(0.0, description="of the traffic")
    by: Literal["tenant", "request"] = Field(
        "tenant", description="all requests of a tenant go one way, or each its own"
    )
    tenants: Annotated[list[Word], Field(max_length=MOST_TENANTS)] = Field(
        [], description="who gets it whatever the share is"
    )
    expected_version: _Version | None = Field(None, description="its version that you saw; 0 for none yet")
    reason: _Reason = "over HTTP"


PROMOTION: TypeAdapter[Promotion] = TypeAdapter(Promotion)
RETURN: TypeAdapter[Return] = TypeAdapter(Return)
ROLLOUT: TypeAdapter[Rollout] = TypeAdapter(Rollout)


def releases_routes(gateway: Gateway) -> APIRouter:
    """Looking."""
    router = private(gateway, "classify")

    @router.get("/v1/releases", summary="The releases of the models that you may ask, and which of them answer")
    async def listed(request: Request) -> Response:
        only(request)
        caller = request.state.caller
        seen = None if "admin" in caller.scopes else caller.tenant
        rows = await gateway.answering.patience.read(releases.known, gateway.database)
        data = [_release(gateway, row, seen) for row in rows if _may_see(gateway, row, seen)]
        return JSONResponse({"object": "list", "data": data})

    @router.get("/v1/releases/{name}", summary="How what answers under a name has changed")
    async def history(request: Request, name: str) -> Response:
        only(request)
        caller = request.state.caller
        named = gateway.shelf.named.get(name)
        if named is None or not ("admin" in caller.scopes or named.is_open_to(caller.tenant)):
            raise not_found()
        found = await gateway.answering.patience.read(releases.history, gateway.database, name)
        data = [
            {"release": p.digest, "replaced": p.replaced, "version": p.version, "reason": p.reason, "at": p.at}
            for p in found
        ]
        return JSONResponse({"object": "list", "name": name, "version": named.pointer.version, "data": data})

    return router


def governing_routes(gateway: Gateway) -> APIRouter:
    """Changing: for who runs the service."""
    router = private(gateway, "admin")

    async def given(request: Request, shape: TypeAdapter[T]) -> T:
        only(request)
        with gateway.answering.admission.space(bodies.size(request, gateway.settings)):
            return bodies.parse(await bodies.read(request, gateway.settings), shape)

    @router.post("/v1/releases/{name}/promote", summary="Let a release answer", openapi_extra=body(PROMOTION))
    async def promote(request: Request, name: str) -> Response:
        asked = await given(request, PROMOTION)
        digest = await _rehearsed(gateway, name, asked.release)
        pointer = await _changed(gateway, partial(_promote, gateway.database, name, digest, asked))
        return JSONResponse({"object": "pointer", "name": name, "release": pointer.release, "version": pointer.version})

    @router.post("/v1/releases/{name}/rollback", summary="Back to the release before", openapi_extra=body(RETURN))
    async def rollback(request: Request, name: str) -> Response:
        asked = await given(request, RETURN)
        change = partial(
            releases.rollback, gateway.database, name, reason=asked.reason, expected_version=asked.expected_version
        )
        pointer = await _changed(gateway, change)
        return JSONResponse({"object": "pointer", "name": name, "release": pointer.release, "version": pointer.version})

    @router.post("/v1/releases/{name}/canary", summary="Let a release answer some", openapi_extra=body(ROLLOUT))
    async def canary(request: Request, name: str) -> Response:
        return await _roll_out(gateway, "canary", name, await given(request, ROLLOUT))

    @router.post("/v1/releases/{name}/shadow", summary="Ask a release beside what answers", openapi_extra=body(ROLLOUT))
    async def shadow(request: Request, name: str) -> Response:
        return await _roll_out(gateway, "shadow", name, await given(request, ROLLOUT))

    @router.get("/v1/releases/{name}/rollouts", summary="Its canary and shadow, and how often the shadow agreed")
    async def beside(request: Request, name: str) -> Response:
        only(request)
        return JSONResponse(await gateway.answering.patience.read(_beside, gateway.database, name))

    return router


def _may_see(gateway: Gateway, row: releases.Registered, tenant: str | None) -> bool:
    """Releases of data products are none of models; ``tenant`` None sees those of all tenants."""
    return row.name in gateway.shelf.named and (tenant is None or row.tenant in (None, tenant))


def _release(gateway: Gateway, row: releases.Registered, tenant: str | None) -> dict[str, Any]:
    """A release as it stands in this process; shadows are shown to who runs the service alone."""
    shelf, named = gateway.shelf, gateway.shelf.named[row.name]
    champion = shelf.loaded.get(row.name)
    failure = shelf.failed.get(row.digest)
    canary = named.canary
    serves = []
    if named.pointer.release == row.digest:
        serves.append("champion")
    if canary is not None and canary.release == row.digest and (tenant is None or canary.is_open_to(tenant)):
        serves.append("canary")
    if tenant is None and named.shadow is not None and named.shadow.release == row.digest:
        serves.append("shadow")
    return {
        "id": f"{row.name}@{row.digest[:12]}",
        "object": "release",
        "name": row.name,
        "release": row.digest,
        "created": row.registered_at // 10**6,
        "owned_by": row.tenant or "feilun",
        "serves": serves,
        "loaded": row.digest in shelf.others or (champion is not None and champion.digest == row.digest),
        "retired": row.retired_at is not None,
        "failure": None if failure is None else failure.what,
    }


async def _rehearsed(gateway: Gateway, name: str, digits: str) -> str:
    """The digest of a release that was loaded here and answers as it says.

    Raises:
        AccessError: 404, no such release of that name.
        RequestError: 409, it cannot be loaded: nothing was changed.
    """
    found = await gateway.answering.patience.read(releases.find, gateway.database, name, digits)
    if found is None:
        raise AccessError("no such release of that name", status=404, where="release", code="no-release")
    try:
        await gateway.shelf.obtain(name, found.digest)
    except NotLoadedError as error:
        raise RequestError(
            "the release cannot be loaded", status=409, code="release-not-loaded", where="release", hint=error.hint
        ) from error
    return found.digest


async def _changed(gateway: Gateway, change: Callable[[], T]) -> T:
    """Change the database, then let this process follow at once; the others do within a second."""
    done: Awaitable[T] = asyncio.shield(asyncio.ensure_future(asyncio.to_thread(change)))
    found = await gateway.answering.patience.wait(done)
    await gateway.shelf.refresh(wait=False)
    return found


def _promote(database: Database, name: str, digest: str, asked: Promotion) -> releases.Pointer:
    """Where the pointer stands there already, by this very request, it stays so: sent again, it is no conflict."""
    now = releases.find_pointer(database, name)
    version = now.version if now is not None else 0
    expected = version if asked.expected_version is None else asked.expected_version
    if now is not None and now.release == digest and version in (expected, expected + 1):
        return now
    return releases.promote(database, name, digest, expected_version=expected, reason=asked.reason)


async def _roll_out(gateway: Gateway, kind: rollouts.Kind, name: str, asked: Rollout) -> Response:
    try:
        share = rollouts.share_of(asked.share)
    except SettingError as error:
        raise RequestError(error.what, status=422, code="invalid-request", where="share", hint=error.hint) from error
    digest = None if asked.release is None else await _rehearsed(gateway, name, asked.release)

    def change() -> rollouts.Rollout:
        seen = asked.expected_version
        return rollouts.change(
            gateway.database,
            kind,
            name,
            digest,
            share=share,
            tenants=asked.tenants,
            sticky=asked.by,
            expected_version=rollouts.version_of(gateway.database, kind, name) if seen is None else seen,
            reason=asked.reason,
        )

    made = await _changed(gateway, change)
    return JSONResponse({"object": "rollout", **rollouts.as_dict(made)})


def _beside(database: Database, name: str) -> dict[str, Any]:
    releases.pointer(database, name)  # 404 where there is no such name
    told: dict[str, Any] = {}
    kinds: tuple[rollouts.Kind, ...] = ("canary", "shadow")
    for kind in kinds:
        found = rollouts.find(database, kind, name)
        told[kind] = None if found is None else rollouts.as_dict(found)
    compared = [vars(agreement) for agreement in rollouts.agreements(database, name)]
    return {"object": "rollouts", "name": name, **told, "agreements": compared}
