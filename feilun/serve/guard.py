"""The outermost layer: the Host header, what is unexpected, one log line and one measurement for each request."""

from __future__ import annotations

import logging
import re
import time
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from feilun.serve import problems
from feilun.serve.admission import Admission
from feilun.serve.crash import torn
from feilun.serve.logs import frames, note
from feilun.serve.metrics import Metrics
from feilun.serve.problems import RequestError
from feilun.serve.settings import GatewaySettings
from feilun.serve.tracing import Tracing, operation_of

_PORT = re.compile(rb":\d{1,5}$")
_ALWAYS = ("/healthz", "/readyz")  # answered however much there is to do
_STREAM = "text/event-stream"
_OWN = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}


class Guard:
    """Wraps the application; knows nothing of keys (authorisation is the router's)."""

    def __init__(
        self,
        app: ASGIApp,
        settings: GatewaySettings,
        metrics: Metrics,
        admission: Admission,
        tracing: Tracing | None = None,
    ) -> None:
        self._app = app
        self._tracing = tracing
        self._admission = admission
        self._hosts = {host.lower().encode() for host in settings.hosts}
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.perf_counter()
        status, streams = 0, False

        async def watched(message: Message) -> None:
            nonlocal status, streams
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.update(_OWN)
                streams = headers.get("content-type", "").startswith(_STREAM)
            elif streams:  # its first piece
                streams = False
                self._metrics.first_token.labels(operation_of(_route(scope))).observe(time.perf_counter() - begun)
            await send(message)
            if message["type"] == "http.response.start" and "request" in scope["state"]:  # an answer that was charged
                await torn("first-byte")

        scope.setdefault("state", {})["arrived"] = time.monotonic()
        try:
            if not self._host_is_known(scope):
                await problems.answer(_forged())(scope, receive, watched)
            elif self._admission.is_full and scope["path"] not in _ALWAYS:
                # here, and not only in the routes: what is refused must cost little, or it keeps the rest waiting
                scope["state"]["code"] = "busy"
                await problems.answer(self._admission.full())(scope, receive, watched)
            else:
                await self._app(scope, receive, watched)
        except ClientDisconnect:
            status = status or 499  # nobody is there to be answered
        except Exception as error:  # noqa: BLE001 - a bug of ours: its place is logged, its words are not
            note(logging.ERROR, "unexpected", kind=type(error).__name__, frames=frames(error.__traceback__))
            if not status:
                await problems.unexpected()(scope, receive, watched)
        self._tell(scope, status, time.perf_counter() - begun)
        if self._tracing is not None and scope["path"] not in _ALWAYS:
            self._tracing.tell(scope, status, begun)

    def _host_is_known(self, scope: Scope) -> bool:
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        return len(hosts) == 1 and _PORT.sub(b"", hosts[0].lower()) in self._hosts

    def _tell(self, scope: Scope, status: int, seconds: float) -> None:
        route = _route(scope)
        self._metrics.requests.labels(route, status).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        if route in _ALWAYS and status == 200:
            return
        state: dict[str, Any] = scope["state"]
        if "release" in state:
            self._metrics.operations.labels(operation_of(route)).observe(seconds)
        told = {
            name: state[name] for name in ("request", "tenant", "inputs", "tokens", "release", "code") if name in state
        }
        note(logging.INFO, "answered", route=route, status=status, ms=round(seconds * 1000, 1), **told)


def _route(scope: Scope) -> str:
    return getattr(scope.get("route"), "path", "unknown")


def _forged() -> RequestError:
    return RequestError(
        "this Host is not served here",
        status=400,
        code="unknown-host",
        where="Host",
        hint="whoever runs this service can allow it (feilun serve --allow-host)",
    )
