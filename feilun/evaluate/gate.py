"""What a release must reach, checked figure by figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from feilun.errors import DataError, did_you_mean


def check(require: Mapping[str, float], whole: Mapping[str, Any], domains: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One entry for each requirement: what is required, what was measured, whether that is enough.

    Raises:
        DataError: a requirement names a domain that no row has.

    >>> figures = {"accuracy": {"value": 0.7, "low": 0.6, "high": 0.8}}
    >>> [c["passed"] for c in check({"accuracy": 0.7, "films.accuracy": 0.71}, figures, {"films": figures})]
    [True, False]
    """
    checks = []
    for name, least in require.items():
        domain, _, metric = name.rpartition(".")
        if domain and domain not in domains:
            hint = did_you_mean(domain, domains) or f"the domains are {', '.join(domains)}"
            raise DataError(f"no row is of the domain '{domain}'", where=f"require: {name}", hint=hint)
        found = (domains[domain] if domain else whole)[metric]
        checks.append({"name": name, "required": least, **found, "passed": found["value"] >= least})
    return checks
