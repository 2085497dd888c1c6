"""Where a fault test can make a gateway die as kill -9 does, on the way of a request (see ``feilun.store.crash``)."""

from __future__ import annotations

from feilun.store.crash import VARIABLE, crash_point, torn

POINTS = ("after-hold", "after-inference", "after-commit", "first-byte")

__all__ = ["POINTS", "VARIABLE", "crash_point", "torn"]
