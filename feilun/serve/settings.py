"""What can be set: of a release in the project file, of a gateway where it is started."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field

from feilun.pipeline.steps import Settings

GENERIC = (
    "This is exactly what I hoped for.",
    "I would not recommend it to anyone.",
    "It arrived on Tuesday.",
    "The first half is dull, but the end makes up for it.",
    "Not bad at all!",
    "Why does it stop after a minute?",
    "ok",
    "Terrible, terrible, terrible: a waste of two hours and of my money.",
)


class ServeSettings(Settings):
    """``[serve.<name>]``: ``name`` is what callers ask for; by default the section's own."""

    name: str = Field("model", pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    probes: tuple[str, ...] = Field(GENERIC, min_length=1, max_length=64)


@dataclass(frozen=True)
class GatewaySettings:
    """Limits and times of one gateway process. Times are in seconds, sizes in bytes."""

    hosts: tuple[str, ...] = ("127.0.0.1", "localhost", "[::1]")  # names that the Host header may have
    mode: str = "live"  # keys of the other mode are refused
    meters: tuple[str, ...] = ()  # what other services may report by POST /v1/events
    queue_requests: int = 256  # requests that are inside at once
    queue_tokens: int = 65_536  # tokens that wait or are worked on at once
    body_bytes: int = 10_000_000
    queue_bytes: int = 100_000_000  # of all bodies that are inside at once
    body_s: float = 15.0  # how long a body may take to arrive
    lease_s: float = 30.0  # how long a hold lasts whose gateway has died
    database_s: float = 10.0  # how long the database may take for one thing before the caller is told 503
    wait_s: float = 10.0  # how long a duplicate waits for the first one
    poll_s: float = 0.25  # how often release pointers are read
    grace_s: float = 20.0  # how long requests in flight may take after SIGTERM
    sample_s: float = 10.0  # how often what the process used of its machine is written down
    batch_tokens: int = 2_048  # tokens in one run of the engine
    threads: int = 2  # processor threads of the engine
    probe_tolerance: float = 0.02  # how far a probe's score may be from the release's: other processors round otherwise
