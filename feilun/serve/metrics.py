"""Figures for Prometheus. Labels are routes, statuses and releases; no tenant, no key, nothing that a user sent."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from feilun.serve.gathering import Crew

BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


class Metrics:
    """One registry for each app, so that two apps in one process do not add up.

    Args:
        crew: the workers whose figures are told with these.
    """

    def __init__(self, crew: Crew | None = None) -> None:
        self.crew = crew
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "feilun_requests", "Answers by route and status", ["route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "feilun_request_seconds",
            "From the first byte to the last",
            ["route"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.operations = Histogram(
            "gen_ai_server_request_duration_seconds",
            "Answers that were charged, by operation (OpenTelemetry: gen_ai.server.request.duration)",
            ["gen_ai_operation_name"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.first_token = Histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "Streams, by operation (OpenTelemetry: gen_ai.server.time_to_first_token)",
            ["gen_ai_operation_name"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.inputs = Counter("feilun_inputs", "Inputs answered and charged", registry=self.registry)
        self.tokens = Counter("feilun_tokens", "Tokens answered and charged", registry=self.registry)
        self.replays = Counter("feilun_replays", "Stored answers given again", registry=self.registry)
        self.core_seconds = Counter("feilun_core_seconds", "Processor time of the engine", registry=self.registry)
        self.kept = Counter("feilun_cached_answers", "Kept answers given again, and charged", registry=self.registry)
        self.shadows = Counter(
            "feilun_shadow",
            "Answers beside which a shadow was asked: agreed, differed, failed, dropped",
            ["release", "outcome"],
            registry=self.registry,
        )
        self.release = Gauge(
            "feilun_release", "1 for each release that answers", ["name", "release"], registry=self.registry
        )

    def gauge(self, name: str, what: str, read: Callable[[], float]) -> None:
        """A figure that is read when it is asked for."""
        Gauge(name, what, registry=self.registry).set_function(read)

    def text(self, answering: dict[str, str]) -> bytes:
        """Prometheus' text format, of all workers; ``answering`` is name -> release digest."""
        own = self.own(answering)
        return own if self.crew is None else self.crew.gathered(own)

    def own(self, answering: dict[str, str]) -> bytes:
        """The same of this process alone."""
        self.release.clear()
        for name, digest in answering.items():
            self.release.labels(name, digest).set(1)
        return generate_latest(self.registry)
