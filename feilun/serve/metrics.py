"""Figures for Prometheus. Labels are routes, statuses and releases; no tenant, no key, nothing that a user sent."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


class Metrics:
    """One registry for each app, so that two apps in one process do not add up."""

    def __init__(self) -> None:
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
        self.inputs = Counter("feilun_inputs", "Inputs answered and charged", registry=self.registry)
        self.tokens = Counter("feilun_tokens", "Tokens answered and charged", registry=self.registry)
        self.replays = Counter("feilun_replays", "Stored answers given again", registry=self.registry)
        self.core_seconds = Counter("feilun_core_seconds", "Processor time of the engine", registry=self.registry)
        self.release = Gauge(
            "feilun_release", "1 for each release that answers", ["name", "release"], registry=self.registry
        )

    def gauge(self, name: str, what: str, read: Callable[[], float]) -> None:
        """A figure that is read when it is asked for."""
        Gauge(name, what, registry=self.registry).set_function(read)

    def text(self, answering: dict[str, str]) -> bytes:
        """Prometheus' text format; ``answering`` is name -> release digest."""
        self.release.clear()
        for name, digest in answering.items():
            self.release.labels(name, digest).set(1)
        return generate_latest(self.registry)
