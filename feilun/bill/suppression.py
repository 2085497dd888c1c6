"""Counts by group of which none can be had about too few people, neither from the table nor by subtraction.

A group with fewer than ``least`` contributors is suppressed. Whoever has the coarser tables over the same rows (another
product may be one) could subtract the published groups from their totals, so further groups are suppressed until no
group with too few people follows. The coarser tables are those by fewer of the grouping columns, each suppressed by
this same rule, and the sum of everything. Suppressed groups are not named in what is published: nobody is told which of
the groups that are not there are empty.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations

Key = tuple[str, ...]  # one value for each grouping column


@dataclass(frozen=True)
class Group:
    """Rows of one group, and whose they are."""

    rows: int
    people: frozenset[str]


@dataclass(frozen=True)
class Suppressed:
    """Which groups are not published: for having too few people, and so that those cannot be subtracted."""

    primary: frozenset[Key]
    complementary: frozenset[Key]

    @property
    def all(self) -> frozenset[Key]:
        """Both."""
        return self.primary | self.complementary


def suppress(groups: Mapping[Key, Group], least: int) -> Suppressed:
    """Choose what is not published: of the groups that would protect, the smallest is taken first."""
    primary = frozenset(key for key, group in groups.items() if len(group.people) < least)
    hidden = set(primary)
    totals = sorted(_totals(groups, least), key=sorted)
    while (another := _needed(groups, totals, hidden, primary)) is not None:
        hidden.add(another)
    return Suppressed(primary, frozenset(hidden) - primary)


def _totals(groups: Mapping[Key, Group], least: int) -> Iterator[frozenset[Key]]:
    """The groups behind each total that somebody may know."""
    width = len(next(iter(groups), ()))
    for count in range(width):
        for places in combinations(range(width), count):
            members: dict[Key, set[Key]] = defaultdict(set)
            for key in groups:
                members[tuple(key[place] for place in places)].add(key)
            coarser = {total: _together(groups[key] for key in keys) for total, keys in members.items()}
            for total in coarser.keys() - suppress(coarser, least).all:
                yield frozenset(members[total])


def _together(groups: Iterable[Group]) -> Group:
    several = list(groups)
    return Group(sum(group.rows for group in several), frozenset().union(*(group.people for group in several)))


def _needed(
    groups: Mapping[Key, Group], totals: Iterable[frozenset[Key]], hidden: set[Key], primary: frozenset[Key]
) -> Key | None:
    """The next group to suppress, or None where every group with too few people is safe, or nothing is left to take."""
    lines = [(total, total & hidden) for total in totals if total & primary]
    at_risk = [total for total, inside in lines if _tells(groups, inside) and total - hidden]
    if not at_risk:
        known = determined([total & hidden for total in totals]) & primary
        at_risk = [total for total, inside in lines if inside & known]
    near = {key for total in at_risk for key in total} - hidden
    choice = near or (set(groups) - hidden if at_risk else set())
    return min(choice, key=lambda key: (groups[key].rows, key), default=None)


def _tells(groups: Mapping[Key, Group], inside: frozenset[Key]) -> bool:
    """Whether the suppressed rest of a total says too much: one group alone, or as many rows as groups (each has 1)."""
    return len(inside) == 1 or sum(groups[key].rows for key in inside) == len(inside)


def determined(lines: Iterable[Iterable[Key]]) -> set[Key]:
    """The groups whose value follows when only the sum of each line is known: exact linear algebra.

    After reduction (Gauss and Jordan) a group follows exactly where its row holds nothing but itself.

    >>> sorted(determined([[("a",), ("b",)], [("b",)]]))
    [('a',), ('b',)]
    """
    reduced: dict[Key, dict[Key, Fraction]] = {}  # by its leading group, whose coefficient is 1
    for line in lines:
        row = {key: Fraction(1) for key in line}
        for lead, other in reduced.items():
            if lead in row:
                row = _less(row, other, row[lead])
        if not row:
            continue
        first = min(row)
        row = {key: value / row[first] for key, value in row.items()}
        for lead, other in list(reduced.items()):
            if first in other:
                reduced[lead] = _less(other, row, other[first])
        reduced[first] = row
    return {lead for lead, row in reduced.items() if len(row) == 1}


def _less(row: Mapping[Key, Fraction], other: Mapping[Key, Fraction], times: Fraction) -> dict[Key, Fraction]:
    made = {key: row.get(key, Fraction(0)) - times * other.get(key, Fraction(0)) for key in {*row, *other}}
    return {key: value for key, value in made.items() if value}
