"""Which part of a month's fee is due, when plans and prices change within it: pure functions over integers.

A fee is divided by time. What is due from the month's begin up to a moment is rounded half to even to a coin, and a
part of the month costs the difference of two such amounts; so the parts of one fee always sum to that fee, however
often the month is cut. Times are microseconds since 1970 in UTC, where every day has the same length.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, NamedTuple

from feilun.accounts.terms import Terms
from feilun.store.money import half_even, minor_digits

if TYPE_CHECKING:
    from feilun.bill.rating import Line

Window = tuple[int, int]  # the second moment is not in it
Kind = Literal["fee", "unused", "trial"]


@dataclass(frozen=True)
class Segment:
    """A time in which a tenant was on one plan at one price; ``ends`` is not in it."""

    begins: int
    ends: int
    plan: str
    terms: Terms


class FeeShare(NamedTuple):
    """A line of an invoice: the part of a month's fee for the time from ``begins`` to ``ends``.

    ``kind`` is fee, unused (a fee that was charged before for a time in which it is no longer due) or trial (a fee that
    a trial makes good). ``units`` is 1 or -1, the sign of the line. ``month`` is the whole month.
    """

    kind: Kind
    plan: str
    version: str
    currency: str
    monthly_nano: int
    begins: int
    ends: int
    month: Window
    units: int = 1

    @property
    def exact_nano(self) -> int:
        """What the line comes to, in whole coins."""
        return self.units * share(self.monthly_nano, self.currency, (self.begins, self.ends), self.month)

    @property
    def words(self) -> dict[str, str | int]:
        """As ``Line.words`` keeps it, from which ``charged`` reads it again."""
        whole = self.month[1] - self.month[0]
        times = {"begins": self.begins, "ends": self.ends, "part": self.ends - self.begins, "whole": whole}
        return {"plan": self.plan} | times


def charged(lines: Iterable[Line], currency: str, month: Window) -> list[FeeShare]:
    """What invoices of a month charged of its fees, from their lines; lines of anything else are passed over.

    A fee without words is for the whole month, as all of them once were.
    """
    found = []
    for line in lines:
        if line.kind in ("fee", "unused") or (line.kind == "trial" and "part" in line.words):
            kind: Kind = "trial" if line.kind == "trial" else "unused" if line.kind == "unused" else "fee"
            plan = str(line.words.get("plan", ""))
            begins, ends = (int(line.words.get(name, month[i])) for i, name in enumerate(("begins", "ends")))
            fixed = (kind, plan, line.price_version, currency, line.unit_nano, begins, ends, month)
            found.append(FeeShare(*fixed, units=line.units))
    return found


def share(nano: int, currency: str, part: Window, month: Window) -> int:
    """What a part of a month costs of ``nano`` for the whole, in coins (in nano-units where the whole is finer).

    >>> november = (0, 30)
    >>> [share(19_000_000_000, "USD", part, november) for part in ((0, 7), (7, 30))]
    [4430000000, 14570000000]
    """
    coin = 10 ** (9 - minor_digits(currency))
    step = coin if nano % coin == 0 else 1
    upto = [half_even(nano * (moment - month[0]), (month[1] - month[0]) * step) * step for moment in part]
    return upto[1] - upto[0]


def charged_spans(segments: Sequence[Segment], month: Window) -> list[Segment]:
    """The time for which each plan's fee is charged, by the plans' ``prorate``.

    all: the time that it was. changes: the same, but a tenant's first and last month are whole. none: a change that a
    plan of this kind takes part in counts for the fee from the next month on, and the first and last month are whole.
    """
    spans: list[Segment] = []
    for segment in segments:
        if spans and "none" in (spans[-1].terms.prorate, segment.terms.prorate):
            spans[-1] = replace(spans[-1], ends=segment.ends)
        else:
            spans.append(segment)
    if spans and spans[0].terms.prorate != "all":
        spans[0] = replace(spans[0], begins=month[0])
    if spans and spans[-1].terms.prorate != "all":
        spans[-1] = replace(spans[-1], ends=month[1])
    return spans


def due(segments: Sequence[Segment], month: Window, trials: Mapping[str, Window]) -> list[FeeShare]:
    """The fees of a month, and what of them trials make good.

    Args:
        segments: of this month, in order, none overlapping (``plan_history``).
        month: its first moment, and the first of the next.
        trials: by plan, the time in which it is free.
    """
    shares = []
    for span, is_trial in _tried(segments, month, trials):
        terms = span.terms
        if terms.monthly_nano:
            fixed = (span.plan, terms.version, terms.currency, terms.monthly_nano, span.begins, span.ends, month)
            shares.append(FeeShare("trial", *fixed, units=-1) if is_trial else FeeShare("fee", *fixed))
    return shares


def minimum_nano(segments: Sequence[Segment], month: Window, trials: Mapping[str, Window]) -> int:
    """What a month costs at least: each plan's minimum for the time of its fee, without trials."""
    return sum(
        (-1 if is_trial else 1) * share(s.terms.minimum_nano, s.terms.currency, (s.begins, s.ends), month)
        for s, is_trial in _tried(segments, month, trials)
    )


def outstanding(wanted: Iterable[FeeShare], earlier: Iterable[FeeShare]) -> list[FeeShare]:
    """What must be charged now, so that with what ``earlier`` invoices charged it comes to what is ``wanted``.

    A time that is due and was not charged becomes a fee, one that was charged and is not due an unused fee. The amounts
    of the result sum exactly to those of ``wanted`` less those of ``earlier``.
    """
    prices: dict[tuple[bool, str, int], list[tuple[FeeShare, int]]] = {}
    for shares, sign in ((wanted, 1), (earlier, -1)):
        for one in shares:
            prices.setdefault((one.kind == "trial", one.version, one.monthly_nano), []).append((one, sign))
    found = [one for (is_trial, *_), shares in prices.items() for one in _missing(shares, is_trial=is_trial)]
    return sorted(found, key=lambda one: (one.kind == "trial", one.begins, one.kind != "unused", one.plan))


def _tried(segments: Sequence[Segment], month: Window, trials: Mapping[str, Window]) -> Iterator[tuple[Segment, bool]]:
    """Each charged time of a month, and again (with True) what of it is a trial."""
    for i, span in enumerate(charged_spans(segments, month)):
        yield span, False
        begins, ends = trials.get(span.plan, (0, 0))
        if i == 0 and begins <= segments[0].begins < ends:  # a first month that is charged whole is free whole
            begins = span.begins
        begins, ends = max(begins, span.begins), min(ends, span.ends)
        if begins < ends:
            yield replace(span, begins=begins, ends=ends), True


def _missing(shares: Sequence[tuple[FeeShare, int]], *, is_trial: bool) -> list[FeeShare]:
    """Of one price: each stretch of time whose charges do not sum to what is due, as a line that mends it."""
    found: list[FeeShare] = []
    edges = sorted({edge for one, _ in shares for edge in (one.begins, one.ends)})
    for begins, ends in pairwise(edges):
        here = [(one, sign) for one, sign in shares if one.begins <= begins and ends <= one.ends]
        units = sum(sign * one.units for one, sign in here)
        if not units:
            continue
        kind: Kind = "trial" if is_trial else "fee" if units > 0 else "unused"
        last = found[-1] if found else None
        if last and (last.ends, last.units, last.plan) == (begins, units, here[0][0].plan):
            found[-1] = last._replace(ends=ends)
        else:
            found.append(here[0][0]._replace(kind=kind, begins=begins, ends=ends, units=units))
    return found
