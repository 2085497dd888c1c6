"""Spans for OpenTelemetry, by its semantic conventions for generative AI and for HTTP servers.

On where the environment names an endpoint (``OTEL_EXPORTER_OTLP_ENDPOINT`` or ``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT``),
sent by OTLP over HTTP from a thread of its own. A span says who was answered, by what, how much and how long: of what
was asked and answered it has not a word, and of what a caller names only what is known here (a model that is served).
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

PROVIDER = "feilun"
OPERATIONS = {"/v1/chat/completions": "chat", "/v1/completions": "text_completion", "/v1/embeddings": "embeddings"}
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PARENT = (b"traceparent", b"tracestate")
_FAREWELL_MS = 3_000  # how long the end waits for spans that are not sent yet


def operation_of(route: str) -> str:
    """What the conventions call a route's work; of theirs that have no name there, its last word."""
    return OPERATIONS.get(route) or route.rpartition("/")[2]


class Tracing:
    """Tells finished requests to a collector."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("feilun.serve")
        self._parents = TraceContextTextMapPropagator()

    def tell(self, scope: Mapping[str, Any], status: int, begun: float) -> None:
        """One span of a request that is over.

        Args:
            scope: of ASGI; its ``state`` says what was answered.
            begun: when its first byte came, by ``time.perf_counter``.
        """
        from opentelemetry.trace import SpanKind, StatusCode

        ended_ns = time.time_ns()
        begun_ns = ended_ns - int((time.perf_counter() - begun) * 10**9)
        route, state = getattr(scope.get("route"), "path", None), scope["state"]
        carrier = {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in _PARENT}
        span = self._tracer.start_span(
            _name(scope, route, state),
            context=self._parents.extract(carrier),
            kind=SpanKind.SERVER,
            start_time=begun_ns,
            attributes=_attributes(scope, route, status),
        )
        span.set_attributes({name: value for name, value in _answered(route, state).items() if value is not None})
        if status >= 500:
            span.set_status(StatusCode.ERROR)
        if status >= 400:
            span.set_attribute("error.type", str(state.get("code") or status))
        span.end(ended_ns)

    def close(self) -> None:
        """Send what is left."""
        self._provider.force_flush(_FAREWELL_MS)
        self._provider.shutdown()


def from_environment() -> Tracing | None:
    """Tracing to the endpoint that the environment names; None where it names none, or says that there is none."""
    off = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or os.environ.get("OTEL_TRACES_EXPORTER") == "none"
    if off or not any(os.environ.get(name) for name in _ENDPOINTS):
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": "feilun"}
    provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider)


def _name(scope: Mapping[str, Any], route: str | None, state: Mapping[str, Any]) -> str:
    if route is not None and "model" in state:
        return f"{operation_of(route)} {state['model']}"
    return f"{scope['method']} {route}" if route else str(scope["method"])


def _attributes(scope: Mapping[str, Any], route: str | None, status: int) -> dict[str, Any]:
    found = {"http.request.method": scope["method"], "http.response.status_code": status, "url.scheme": scope["scheme"]}
    return found | ({"http.route": route} if route else {})


def _answered(route: str | None, state: Mapping[str, Any]) -> dict[str, Any]:
    """What the conventions for generative AI ask for; empty where no model was asked."""
    known = {"feilun.tenant": state.get("tenant")}
    if route is None or "model" not in state:
        return known
    release = state.get("release")
    return known | {
        "gen_ai.operation.name": operation_of(route),
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": state["model"],
        "gen_ai.response.model": f"{state['model']}@{release[:12]}" if release else None,
        "gen_ai.response.id": state.get("request"),
        "gen_ai.usage.input_tokens": state.get("tokens"),
        "gen_ai.usage.output_tokens": state.get("tokens_out"),
    }
