"""What a release must reach, checked figure by figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from feilun.errors import DataError, SettingError, did_you_mean


def check(
    require: Mapping[str, float],
    whole: Mapping[str, Any],
    domains: Mapping[str, Any],
    lower_is_better: frozenset[str] = frozenset(),
) -> list[dict[str, Any]]:
    """One entry for each requirement: what is required, what was measured, whether that is enough.

    A requirement is ``metric``, ``domain.metric``, or of one class: ``f1:LABEL``, ``domain.recall:LABEL``. It is the
    least value, or the greatest where lower is better.

    Raises:
        DataError: a requirement names a domain that no row has.
        SettingError: it names a metric that the task does not have.

    >>> figures = {"accuracy": {"value": 0.7, "low": 0.6, "high": 0.8}}
    >>> [c["passed"] for c in check({"accuracy": 0.7, "films.accuracy": 0.71}, figures, {"films": figures})]
    [True, False]
    """
    checks = []
    for name, limit in require.items():
        metric, found = _find(name, whole, domains)
        low = metric in lower_is_better
        passed = found["value"] <= limit if low else found["value"] >= limit
        entry = {"name": name, "required": limit, **found, "passed": passed}
        checks.append(entry | {"at_most": True} if low else entry)
    return checks


def _find(name: str, whole: Mapping[str, Any], domains: Mapping[str, Any]) -> tuple[str, dict[str, float]]:
    """The metric's name and its figure."""
    known = names(whole)
    if name in known:
        return name, _figure(whole, name)
    for domain, figures in domains.items():
        metric = name.removeprefix(f"{domain}.")
        if metric != name and metric in names(figures):
            return metric, _figure(figures, metric)
    domain, _, metric = name.rpartition(".")
    if domain and domain not in domains and metric in known:
        hint = did_you_mean(domain, domains) or f"the domains are {', '.join(domains)}"
        raise DataError(f"no row is of the domain '{domain}'", where=f"require: {name}", hint=hint)
    like = [n for n in known if (":" in n) == (":" in metric)]
    hint = did_you_mean(metric, like) or f"there is {', '.join(n for n in known if ':' not in n)}"
    raise SettingError(f"these rows have no figure '{metric or name}'", where=f"require: {name}", hint=hint)


def names(figures: Mapping[str, Any]) -> list[str]:
    """What can be required of these figures."""
    of_all = [name for name, figure in figures.items() if isinstance(figure, Mapping) and "value" in figure]
    classes = figures.get("classes", {})
    return of_all + [f"{kind}:{label}" for label in classes for kind in classes[label]["intervals"]]


def _figure(figures: Mapping[str, Any], name: str) -> dict[str, float]:
    kind, of_class, label = name.partition(":")
    if name in figures or not of_class:
        return dict(figures[name])
    found = figures["classes"][label]
    low, high = found["intervals"][kind]
    return {"value": found[kind], "low": low, "high": high}
