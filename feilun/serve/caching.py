"""Answers that may be given again: exact, for whoever asked for it, never across tenants.

An answer is kept under a keyed digest of tenant, release, route and the body's bytes. The key of that digest is drawn
by the process when it starts, so that nobody outside can say what is kept, and nothing that a caller sends takes part
in it. What is given again is charged by meters of its own (``feilun.store.counts``), held and committed like any other
answer. The whole has a size; where it is full, the tenant who has most in it loses what it used least recently.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.requests import Request

from feilun.serve.loading import Loaded
from feilun.store import ledger
from feilun.store.counts import Counts

MOST_S = 86_400  # how old an answer may be that is given again
OVERHEAD = 512  # bytes that an entry takes beside its body
_MAX_AGE = re.compile(r"max-age=(\d{1,9})")


def seconds_of(request: Request, usual: int) -> int:
    """How old an answer may be that is given again to this request; 0: none is, and its own is not kept.

    The caller says it as HTTP does (RFC 9111, 5.2.1): ``Cache-Control: max-age=600``, or ``no-cache`` or ``no-store``.
    A request without a word gets what its plan says.
    """
    said = [part.strip().lower() for part in ",".join(request.headers.getlist("cache-control")).split(",")]
    if "no-store" in said or "no-cache" in said:
        return 0
    ages = [int(found[1]) for part in said if (found := _MAX_AGE.fullmatch(part))]
    return min(MOST_S, *ages) if ages else usual


@dataclass(frozen=True)
class Kept:
    """An answer: whose request it answered first, its bytes, what it was charged, the digests of its inputs."""

    request: str
    body: bytes
    units: Counts
    inputs: str
    at: float

    @property
    def size(self) -> int:
        """Bytes, about."""
        return len(self.body) + len(self.inputs) + OVERHEAD

    def render(self, charge: ledger.Charge) -> bytes:
        """The same answer as another request's: with its id and what it costs."""
        answer = json.loads(self.body)
        if isinstance(answer.get("id"), str):
            answer["id"] = answer["id"].replace(self.request, charge.request)
        usage = answer.get("usage")
        if isinstance(usage, dict):
            usage["cached"] = True
            if "amount_nano" in usage:
                usage |= {"amount_nano": charge.amount_nano, "currency": charge.currency}
        return json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode()


@dataclass(frozen=True)
class Repeating:
    """The work of a request whose answer is kept: there is none (``feilun.serve.answering.Work``)."""

    loaded: Loaded
    kept: Kept
    texts: Sequence[str] = ()

    @property
    def units(self) -> Counts:
        """What it is charged."""
        return self.kept.units

    def close(self) -> None:
        """Nothing was begun."""


class Cache:
    """Kept answers of one process; used from the event loop's thread only."""

    def __init__(self, most_bytes: int) -> None:
        self.size = 0
        self.hits = 0
        self._most = most_bytes
        self._salt = secrets.token_bytes(32)
        self._kept: dict[str, OrderedDict[bytes, Kept]] = {}  # by tenant, the least recently used first
        self._sizes: dict[str, int] = {}

    def key(self, tenant: str, release: str, body_sha256: str) -> bytes:
        """Under what an answer is kept; ``body_sha256`` is of the route and the body's bytes."""
        said = "\0".join((tenant, release, body_sha256)).encode()
        return hmac.new(self._salt, said, hashlib.sha256).digest()

    def find(self, tenant: str, key: bytes, seconds: int) -> Kept | None:
        """The tenant's own answer, not older than that."""
        mine = self._kept.get(tenant)
        found = mine.get(key) if mine is not None else None
        if mine is None or found is None:
            return None
        age = time.monotonic() - found.at
        if age >= MOST_S:
            self._forget(tenant, key)
        if age >= seconds:
            return None
        mine.move_to_end(key)
        self.hits += 1
        return found

    def keep(self, tenant: str, key: bytes, kept: Kept) -> None:
        """Keep an answer, if it is not larger than a quarter of all there may be."""
        if kept.size > self._most // 4:
            return
        self._forget(tenant, key)
        self._kept.setdefault(tenant, OrderedDict())[key] = kept
        self._add(tenant, kept.size)
        while self.size > self._most:
            largest = max(self._sizes, key=lambda name: self._sizes[name])
            self._forget(largest, next(iter(self._kept[largest])))

    def _forget(self, tenant: str, key: bytes) -> None:
        mine = self._kept.get(tenant)
        gone = mine.pop(key, None) if mine is not None else None
        if gone is not None:
            self._add(tenant, -gone.size)
        if mine is not None and not mine:
            del self._kept[tenant], self._sizes[tenant]

    def _add(self, tenant: str, size: int) -> None:
        self.size += size
        self._sizes[tenant] = self._sizes.get(tenant, 0) + size
