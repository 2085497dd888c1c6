"""Another release in the place of those of its name: what it would have cost, and how often it would have been right.

What it costs is core time for each token, of the two in the same way: from the ledger where both have answered enough,
else measured here, both on the same texts, in turns. What customers got is known where they corrected an answer, or
confirmed it: these texts are asked again.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import isqrt
from typing import Any, NamedTuple

from sqlalchemy import func, select

from feilun.bill import costs
from feilun.bill.settings import BillSettings
from feilun.errors import ArtifactError
from feilun.pipeline.kinds import Model, Release
from feilun.store import tables
from feilun.store.artifacts import ArtifactStore
from feilun.store.money import half_even
from feilun.store.periods import bounds

ENOUGH = 1_000  # tokens in the ledger from which on they tell what a token costs
MOST_TEXTS = 2_000  # corrected ones that are asked again, the newest
ROUNDS = 5
PPM = 10**6


class Corrected(NamedTuple):
    """A correction of the month: ``answered`` is what the customer got, ``label`` what is right."""

    tenant: str
    text: str
    answered: str
    label: str


@dataclass(frozen=True)
class Swap:
    """What it would have changed for one customer."""

    cost_nano: int = 0
    judged: int = 0
    right_then: int = 0
    right_instead: int = 0


@dataclass(frozen=True)
class Rate:
    """Core-nanoseconds for some tokens; ``measured`` is "ledger" or "here"."""

    core_ns: int
    tokens: int
    measured: str


@dataclass(frozen=True)
class Other:
    """The other release beside those that answered.

    ``gain_ppm`` is the difference in the share of right answers, in millionths, over all judged texts; ``gain_low_ppm``
    and ``gain_high_ppm`` bound it with 95 % (Agresti and Min's interval for paired shares); None where none is judged.
    """

    name: str
    release: str
    then: Rate
    instead: Rate
    judged: int
    right_then: int
    right_instead: int
    gain_ppm: int | None
    gain_low_ppm: int | None
    gain_high_ppm: int | None
    swaps: Mapping[str, Swap] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, without customers, who have it beside their amounts."""
        return {name: value for name, value in asdict(self).items() if name != "swaps"}


def of(store: ArtifactStore, settings: BillSettings, period: str, wanted: str) -> Other:
    """The release ``name@digits`` in the place of those of its name in a month.

    Raises:
        ArtifactError: there is no such release, or nothing of that name answered in the month.
    """
    release = _find(store, wanted)
    name = str(release.facts["name"])
    used = _answered(store, name, period)
    corrected = _corrected(store, name, period)
    if not used:
        raise ArtifactError(f"no release of '{name}' answered in {period}", where=wanted)
    then, instead = _rates(store, release, used, [each.text for each in corrected])
    cost = _costs(settings, used, then, instead)
    labels = _labels(store, release, corrected)
    swaps: dict[str, Swap] = {tenant: Swap(nano) for tenant, nano in cost.items()}
    better = worse = 0
    for each, label in zip(corrected, labels, strict=True):
        was, would = each.answered == each.label, label == each.label
        better, worse = better + (would > was), worse + (was > would)
        swap = swaps.get(each.tenant, Swap())
        swaps[each.tenant] = Swap(swap.cost_nano, swap.judged + 1, swap.right_then + was, swap.right_instead + would)
    gain, low, high = interval(better, worse, len(corrected)) if corrected else (None, None, None)
    right = (sum(swap.right_then for swap in swaps.values()), sum(swap.right_instead for swap in swaps.values()))
    return Other(name, release.digest, then, instead, len(corrected), *right, gain, low, high, swaps)


def interval(better: int, worse: int, judged: int) -> tuple[int, int, int]:
    """The difference of two shares over the same texts and its 95 % interval, in millionths.

    Agresti and Min (2005): half a text is added to each of the four cells, which keeps the interval honest where texts
    are few. Whole numbers throughout, so that it is the same everywhere.

    >>> interval(better=12, worse=4, judged=100)
    (80000, 679, 156183)
    """
    changed, difference, whole = better + worse + 1, better - worse, judged + 2
    spread = isqrt(PPM**2 * 38_416 * (changed * whole - difference**2) // (10_000 * whole**3))
    middle = half_even(difference * PPM, whole)
    return half_even(difference * PPM, judged), max(-PPM, middle - spread), min(PPM, middle + spread)


class _Used(NamedTuple):
    tokens: int
    compute_ns: int


def _find(store: ArtifactStore, wanted: str) -> Release:
    name, at, digits = wanted.rpartition("@")
    found = store.get(store.find(digits)) if at and digits else None
    if not isinstance(found, Release) or found.facts.get("name") != name:
        hint = "write it NAME@DIGITS; list them with: feilun releases list"
        raise ArtifactError(f"there is no release '{wanted[:80]}'", hint=hint)
    return found


def _answered(store: ArtifactStore, name: str, period: str) -> dict[tuple[str, str], _Used]:
    """By tenant and release, what the releases of a name answered in the month."""
    usage, releases = tables.usage.c, tables.releases.c
    begins, ends = bounds(period)
    query = (
        select(usage.tenant, usage.release, func.sum(usage.tokens), func.sum(usage.compute_ns))
        .join(tables.releases, releases.digest == usage.release)
        .where(releases.name == name, usage.at >= begins, usage.at < ends)
        .group_by(usage.tenant, usage.release)
    )
    with store.database.read() as connection:
        return {(row[0], row[1]): _Used(int(row[2]), int(row[3])) for row in connection.execute(query)}


def _corrected(store: ArtifactStore, name: str, period: str) -> list[Corrected]:
    feedback, releases = tables.feedback.c, tables.releases.c
    begins, ends = bounds(period)
    query = (
        select(feedback.tenant, feedback.text, feedback.answered, feedback.label)
        .join(tables.releases, releases.digest == feedback.release)
        .join(tables.usage, tables.usage.c.request == feedback.request)
        .where(releases.name == name, tables.usage.c.at >= begins, tables.usage.c.at < ends)
        .order_by(feedback.id.desc())
        .limit(MOST_TEXTS)
    )
    with store.database.read() as connection:
        return [Corrected(*row) for row in connection.execute(query)]


def _labels(store: ArtifactStore, release: Release, corrected: Sequence[Corrected]) -> list[str]:
    from feilun import models

    return models.predict(_model(store, release), [each.text for each in corrected]).labels if corrected else []


def _rates(
    store: ArtifactStore, release: Release, used: Mapping[tuple[str, str], _Used], texts: Sequence[str]
) -> tuple[Rate, Rate]:
    """What a token costs: of the releases that answered, and of the other one, measured in the same way."""
    total = _Used(sum(u.tokens for u in used.values()), sum(u.compute_ns for u in used.values()))
    usage = tables.usage.c
    query = select(func.sum(usage.tokens), func.sum(usage.compute_ns)).where(usage.release == release.digest)
    with store.database.read() as connection:
        tokens, compute_ns = (int(figure or 0) for figure in connection.execute(query).one())
    if tokens >= ENOUGH and total.tokens >= ENOUGH and compute_ns and total.compute_ns:
        return Rate(total.compute_ns, total.tokens, "ledger"), Rate(compute_ns, tokens, "ledger")
    most: dict[str, int] = defaultdict(int)
    for (_, digest), each in used.items():
        most[digest] += each.tokens
    served = store.get(max(most, key=lambda digest: (most[digest], digest)))
    assert isinstance(served, Release)
    asked = list(texts)[:200] or _probes(store, release)
    return _measure(_model(store, served), _model(store, release), asked)


def _measure(served: Model, other: Model, texts: Sequence[str]) -> tuple[Rate, Rate]:
    """Processor time of this process while each engine answers, in turns: nothing else runs in it meanwhile."""
    from feilun.models import inference

    engines = [inference.load(model) for model in (served, other)]
    rows = [engine.encode(texts) for engine in engines]
    spent = [0, 0]
    for turn in range(ROUNDS + 1):
        for i, engine in enumerate(engines):
            begun = time.process_time_ns()
            engine.run(rows[i])
            spent[i] += time.process_time_ns() - begun if turn else 0  # the first run allocates
    tokens = [ROUNDS * sum(len(row) for row in of_one) for of_one in rows]
    return Rate(spent[0], tokens[0], "here"), Rate(spent[1], tokens[1], "here")


def _costs(settings: BillSettings, used: Mapping[tuple[str, str], _Used], then: Rate, instead: Rate) -> dict[str, int]:
    """By tenant, what the engine's time would have cost more (or less) than it did."""
    by_tenant: dict[str, int] = defaultdict(int)
    for (tenant, _), each in used.items():
        by_tenant[tenant] += each.compute_ns
    tenants = sorted(by_tenant)
    was = [by_tenant[tenant] for tenant in tenants]
    would = [half_even(ns * instead.core_ns * then.tokens, then.core_ns * instead.tokens) for ns in was]
    priced = [costs.of_core_time(settings, one) for one in (was, would)]
    return {tenant: after - before for tenant, before, after in zip(tenants, *priced, strict=True)}


def _model(store: ArtifactStore, release: Release) -> Model:
    return next(artifact for artifact in map(store.get, release.parents) if isinstance(artifact, Model))


def _probes(store: ArtifactStore, release: Release) -> list[str]:
    """Texts that come with the release; used where nobody has corrected anything."""
    said = json.loads((store.get(release.digest).path / "release.json").read_bytes())
    return [str(probe["text"]) for probe in said["probes"]]
