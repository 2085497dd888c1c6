"""What can be set: of a release in the project file, of a gateway where it is started."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from feilun.pipeline.steps import Settings
from feilun.serve.listening import Tls
from feilun.serve.prompts import Prompts

NAME = r"^[a-z0-9][a-z0-9._-]{0,63}$"
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
    """``[serve.<name>]``: ``name`` is what callers ask for; by default the section's own.

    ``fallback``: the names that answer in its place, in this order, where it cannot be loaded or its engine fails.
    """

    name: str = Field("model", pattern=NAME)
    harmless: tuple[str, ...] = ()  # labels that POST /v1/moderations does not flag
    probes: tuple[str, ...] = Field(GENERIC, min_length=1, max_length=64)
    fallback: tuple[Annotated[str, Field(pattern=NAME)], ...] = Field((), max_length=8)


@dataclass(frozen=True)
class GatewaySettings:
    """Limits and times of one gateway process. Times are in seconds, sizes in bytes."""

    hosts: tuple[str, ...] = ("127.0.0.1", "localhost", "[::1]")  # names that the Host header may have
    mode: str = "live"  # keys of the other mode are refused
    tls: Tls | None = None  # the certificate by which it answers; without one it speaks plain HTTP
    prompts: Prompts | None = None  # where inputs are written down; nowhere without it
    meters: tuple[str, ...] = ()  # what other services may report by POST /v1/events
    queue_requests: int = 256  # requests that are inside at once
    queue_tokens: int = 65_536  # tokens that wait or are worked on at once
    queue_s: float = 1.5  # how long what is inside may take, at the pace of the last seconds; more is refused
    body_bytes: int = 10_000_000
    queue_bytes: int = 100_000_000  # of all bodies that are inside at once
    header_s: float = 10.0  # how long the headers of a request may take to arrive
    body_s: float = 15.0  # how long a body may take to arrive
    write_s: float = 30.0  # how long a caller may take nothing of what is written to it
    lease_s: float = 30.0  # how long a hold lasts whose gateway has died
    database_s: float = 10.0  # how long the database may take for one thing before the caller is told 503
    wait_s: float = 10.0  # how long a duplicate waits for the first one
    answer_tokens: int = 1_024  # the most tokens of an answer whose caller says no number
    checkpoint_tokens: int = 32  # of a stream: what it delivered is written down after so many tokens,
    checkpoint_s: float = 1.0  # or after this time
    deliver_s: float = 60.0  # how long the reader of a stream may take beyond the writing of it
    poll_s: float = 0.25  # how often release pointers are read
    memory_mb: float | None = None  # of all releases that are loaded; half of the machine's where it is not said
    idle_s: float = 300.0  # how long a release stays loaded that nobody asks for and no name stands for
    cache_bytes: int = 64_000_000  # of answers that may be given again
    leave_s: float = 0.0  # after SIGTERM: how long new requests are answered while readyz is red already
    grace_s: float = 20.0  # how long requests in flight may take after SIGTERM
    sample_s: float = 10.0  # how often what the process used of its machine is written down
    file_bytes: int = 100_000_000  # of one uploaded file
    file_lines: int = 50_000
    files_bytes: int = 1_000_000_000  # of all files of a tenant
    upload_s: float = 600.0  # how long a file may take to arrive
    batch_poll_s: float = 1.0  # how often it is looked whether there is a batch to work on
    batch_lease_s: float = 15.0  # after which another gateway goes on with a batch whose gateway has died
    batch_tokens: int = 512  # padded tokens in one run of the engine at the most
    latency_ms: float = 100.0  # how long the engine should take for a request, its wait for a run included
    window_tokens: int = 8_192  # given to the batcher at once; the rest waits for its fair turn
    window_generating: int = 32_768  # the same for each model that generates, its answers' most tokens included
    threads: int = 2  # processor threads of the engine
    adapter_bytes: int = 512_000_000  # of the changes of models that share a base; the least recently used are dropped
    probe_tolerance: float = 0.02  # how far a probe's score may be from the release's: other processors round otherwise
