"""Budgets, quotas and prepaid credit: exact under concurrency, because the ledger has locked the tenant's row.

A request is admitted only if every limit would hold were all open holds captured. Holds are counted in units, not in
money, because what one request costs depends on how many came before it. A key's budget is tested against the most
that its open holds can cost in any order (``Limits.ceiling``), so it is never overrun and can refuse a little early
where a plan has tiers. What is only known after the work (``compute_ms``, generated tokens beyond what was held) is
charged and counted, and can take the last requests in flight over a limit by that much.

A limit that a request takes past a stated percentage is noted once a month and told by webhook, in the transaction
that charges the request.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from sqlalchemy import Connection

from feilun.errors import QuotaError
from feilun.store import outbox
from feilun.store.counts import Counts
from feilun.store.money import format_money
from feilun.store.periods import bounds, period_of
from feilun.store.statements import Statement

MINUTE = 60 * 10**6
BATCH_LINES = "server:batch:"  # what the idempotency keys of a batch's lines begin with


class Limits(Protocol):
    """What a plan's terms say about limits, and what units cost under them."""

    @property
    def currency(self) -> str:
        """ISO 4217."""

    @property
    def quota(self) -> Mapping[str, int]:
        """The most units of a meter in a calendar month (UTC)."""

    @property
    def warn_percent(self) -> tuple[int, ...]:
        """Percentages of a limit at which its tenant is told."""

    @property
    def prepaid(self) -> bool:
        """Whether usage must be covered by prepaid credit."""

    @property
    def requests_per_minute(self) -> int | None:
        """The most requests that a tenant may begin in any 60 seconds."""

    @property
    def share(self) -> int:
        """Of the engine, against the shares of others who ask at the same time."""

    @property
    def priority(self) -> int:
        """Higher ones go first."""

    @property
    def cache_s(self) -> int:
        """How many seconds old an answer may be that is given again to who does not say; 0: none is."""

    def amount(self, before: Counts, after: Counts) -> int:
        """What it costs, in nano-units, to go from the month's counts ``before`` to ``after``."""

    def most(self, used: Counts, held: Counts) -> int:
        """The most that open holds can cost after a month's ``used``, whichever of them are captured."""

    def ceiling(self, units: Counts) -> int:
        """The most that ``units`` can cost, wherever in the month they fall."""


@dataclass(frozen=True)
class Wanted:
    """What a request asks for, beside what its tenant holds already."""

    tenant: str
    key: str
    units: Counts
    held: Counts
    due_nano: int  # usage that no invoice covers yet
    now: int
    month: Month  # of the tenant so far,
    key_month: Month  # and of the key

    @property
    def open(self) -> Counts:
        """All open holds, this one included."""
        return self.held.plus(self.units)


@dataclass(frozen=True)
class Month:
    """Units of a calendar month and what they cost, in nano-units."""

    units: Counts
    spent: int

    def plus(self, units: Counts, amount: int) -> Month:
        """With one more request."""
        return Month(self.units.plus(units), self.spent + amount)


@dataclass(frozen=True)
class Step:
    """A captured request: its month before and after it, for the tenant and for the key."""

    tenant: str
    key: str
    before: Month
    after: Month
    key_before: Month
    key_after: Month


class Budgets(NamedTuple):
    """Hard limits for a calendar month (UTC) in nano-units; None where there is none."""

    tenant: int | None
    key: int | None
    key_quota: Mapping[str, int] = MappingProxyType({})  # units of a meter


def check(connection: Connection, wanted: Wanted, terms: Limits, budgets: Budgets) -> None:
    """Refuse what any limit does not cover.

    Raises:
        QuotaError: says which limit, when it begins anew, and what to do.
    """
    if terms.requests_per_minute is not None and not wanted.units["batch_requests"]:  # a batch makes its own pace
        _check_rate(connection, wanted, terms.requests_per_minute)
    if budgets.key is not None or budgets.key_quota:
        _check_key(connection, wanted, terms, budgets)
    if budgets.tenant is None and not terms.quota and not terms.prepaid:
        return
    month = wanted.month
    then = month.units.plus(wanted.open)
    for meter, most in terms.quota.items():
        if wanted.units[meter] and then[meter] > most:
            raise _refused(
                f"the quota of {most:,} {meter} a month does not cover the request",
                wanted.now,
                code="quota-exceeded",
                hint="it begins anew with the next calendar month (UTC); another plan can have more",
            )
    if budgets.tenant is not None and month.spent + terms.most(month.units, wanted.open) > budgets.tenant:
        raise _refused("the budget for this month does not cover the request", wanted.now)
    if terms.prepaid:
        left = credit_left(connection, wanted.tenant, terms.currency, wanted.now)
        if wanted.due_nano + terms.most(month.units, wanted.open) > left:
            raise _refused(
                f"the prepaid credit of {format_money(left, terms.currency)} does not cover the request",
                wanted.now,
                code="credit-used-up",
                hint="add credit: ask whoever runs this service",
                retry_after=None,
            )


def _check_key(connection: Connection, wanted: Wanted, terms: Limits, budgets: Budgets) -> None:
    month = wanted.key_month
    open_units = _held_by_key(connection, wanted).plus(wanted.units)
    hint = "it begins anew with the next calendar month (UTC); use another key, or have this one's limit raised"
    for meter, most in budgets.key_quota.items():
        if wanted.units[meter] and month.units[meter] + open_units[meter] > most:
            what = f"this key's quota of {most:,} {meter} a month does not cover the request"
            raise _refused(what, wanted.now, code="key-quota-exceeded", hint=hint)
    if budgets.key is not None and month.spent + terms.ceiling(open_units) > budgets.key:
        what = "the budget of this key for this month does not cover the request"
        raise _refused(what, wanted.now, code="key-budget-exceeded", hint=hint)


def warn(connection: Connection, step: Step, terms: Limits, budgets: Budgets, at: int) -> None:
    """Note each limit whose percentage this request has passed, once a month, and tell it by webhook."""
    period = period_of(at)
    for subject, most, before, after in _watched(step, terms, budgets):
        for percent in terms.warn_percent:
            if before * 100 < most * percent <= after * 100:
                values = {"tenant": step.tenant, "subject": subject, "period": period, "percent": percent, "at": at}
                if _NOTICE.run(connection, **values).rowcount == 1:
                    _tell(connection, values | {"limit": most, "used": after, "currency": terms.currency})


def month_of(connection: Connection, tenant: str, period: str) -> Month:
    """A tenant's month so far."""
    return month_from(_MONTH.one(connection, owner=tenant, period=period) or _NONE)


def month_of_key(connection: Connection, key: str, period: str) -> Month:
    """A key's month so far."""
    return month_from(_MONTH_OF_KEY.one(connection, owner=key, period=period) or _NONE)


def counted(step: Step, period: str) -> dict[str, Any]:
    """The values of ``COUNT`` and ``COUNT_KEY``: the month's new totals of the tenant and of the key. Nobody else can
    write them, while the tenant's row is locked."""
    values: dict[str, Any] = {"month_tenant": step.tenant, "month_key": step.key, "month_period": period}
    for name, month in (("tenant", step.after), ("key", step.key_after)):
        values |= {f"{name}_{column}": value for column, value in month.units.columns().items()}
        values[f"{name}_spent"] = month.spent
    return values


def credit_left(connection: Connection, tenant: str, currency: str, now: int) -> int:
    """Prepaid credit, in nano-units, that has neither been used nor expired."""
    row = _CREDIT.one(connection, tenant=tenant, currency=currency, now=now)
    return int(row[0]) if row is not None and row[0] is not None else 0


def _check_rate(connection: Connection, wanted: Wanted, most: int) -> None:
    """Refuse where the ``most``-th newest request is younger than a minute: exact in any window, for all workers."""
    row = _NTH_NEWEST.one(connection, tenant=wanted.tenant, before=most - 1, lines=f"{BATCH_LINES}%")
    if row is not None and wanted.now - row[0] < MINUTE:
        wait = -((wanted.now - row[0] - MINUTE) // 10**6)
        raise _refused(
            f"more than {most:,} requests in a minute",
            wanted.now,
            code="rate-limited",
            hint="send them more slowly; another plan can have more",
            retry_after=wait,
        )


def _watched(step: Step, terms: Limits, budgets: Budgets) -> Iterator[tuple[str, int, int, int]]:
    """Every limit of the request: its name, how much, and how much of it was used before and after."""
    if budgets.tenant is not None:
        yield "budget", budgets.tenant, step.before.spent, step.after.spent
    for meter, most in terms.quota.items():
        yield f"quota:{meter}", most, step.before.units[meter], step.after.units[meter]
    if budgets.key is not None:
        yield f"key:{step.key}", budgets.key, step.key_before.spent, step.key_after.spent
    for meter, most in budgets.key_quota.items():
        yield f"key:{step.key}:{meter}", most, step.key_before.units[meter], step.key_after.units[meter]


def _tell(connection: Connection, notice: dict[str, Any]) -> None:
    limit = notice["subject"].partition(":")[0]
    kind = f"{limit}.{'reached' if notice['percent'] >= 100 else 'warning'}"
    identity = outbox.identity("limit", *(str(notice[name]) for name in ("tenant", "subject", "period", "percent")))
    unit = notice["subject"].partition(":")[2] if limit == "quota" else "nano"  # of limit and used
    payload = {"type": kind, "data": notice | {"unit": unit}}
    outbox.put(connection, kind="webhook", id=identity, subject=notice["tenant"], payload=payload)


def month_from(row: Sequence[Any]) -> Month:
    """From requests, inputs, tokens, more and spent_nano of a row of counters; all None where there is no row."""
    return Month(Counts(), 0) if row[0] is None else Month(Counts.of(*row[:4]), int(row[4]))


def _held_by_key(connection: Connection, wanted: Wanted) -> Counts:
    held = Counts()
    for row in _HELD_BY_KEY.run(connection, tenant=wanted.tenant, key=wanted.key).fetchall():
        held = held.plus(Counts.of(1, *row))
    return held


def _refused(what: str, now: int, **more: Any) -> QuotaError:
    hint = "it begins anew with the next calendar month (UTC); whoever runs this service can raise it"
    told: dict[str, Any] = {"retry_after": _seconds_left(now), "hint": hint, "code": "budget-exceeded"}
    return QuotaError(what, **(told | more))


def _seconds_left(now: int) -> int:
    return (bounds(period_of(now))[1] - now) // 10**6 + 1


_READ = "SELECT requests, inputs, tokens, more, spent_nano FROM {0} WHERE {1} = :owner AND period = :period"
_WRITE = (
    "INSERT INTO {0} ({1}, period, requests, inputs, tokens, more, spent_nano) VALUES (:month_{1}, :month_period, "
    ":{1}_requests, :{1}_inputs, :{1}_tokens, :{1}_more, :{1}_spent) ON CONFLICT ({1}, period) DO UPDATE SET "
    "requests = excluded.requests, inputs = excluded.inputs, tokens = excluded.tokens, more = excluded.more, "
    "spent_nano = excluded.spent_nano"
)
_MONTH = Statement(_READ.format("counters", "tenant"))
_MONTH_OF_KEY = Statement(_READ.format("key_counters", "key"))
COUNT = _WRITE.format("counters", "tenant")
COUNT_KEY = _WRITE.format("key_counters", "key")
_NONE = (None,)
_HELD_BY_KEY = Statement(
    "SELECT held_inputs, held_tokens, held_more FROM requests WHERE state = 'held' AND tenant = :tenant AND key = :key"
)
_NOTICE = Statement(
    "INSERT INTO notices (tenant, subject, period, percent, at) VALUES (:tenant, :subject, :period, :percent, :at) "
    "ON CONFLICT (tenant, subject, period, percent) DO NOTHING"
)
_NTH_NEWEST = Statement(
    "SELECT created_at FROM requests WHERE tenant = :tenant AND idempotency_key NOT LIKE :lines "
    "ORDER BY created_at DESC LIMIT 1 OFFSET :before"
)
_CREDIT = Statement(
    "SELECT SUM(grants.amount_nano) - COALESCE((SELECT SUM(used.amount_nano) FROM grant_uses AS used "
    "JOIN grants AS given ON given.id = used.credit WHERE given.tenant = :tenant AND given.currency = :currency "
    "AND (given.expires_at IS NULL OR given.expires_at > :now)), 0) FROM grants WHERE grants.tenant = :tenant "
    "AND grants.currency = :currency AND (grants.expires_at IS NULL OR grants.expires_at > :now)"
)
