"""No suppressed group follows from what is published: tried against an attacker who tries every table."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as some

from feilun.bill.suppression import Group, Key, determined, suppress

LEAST = 3


NUMBERS = itertools.count()


def group(rows: int) -> Group:
    """As many people as rows, all different: the case in which rows give people away most directly."""
    return Group(rows, frozenset(str(next(NUMBERS)) for _ in range(rows)))


def known_totals(groups: Mapping[Key, Group]) -> list[tuple[list[Key], int]]:
    """Every total that an attacker has who bought every coarser table over the same rows."""
    width = len(next(iter(groups)))
    found = []
    for count in range(width):
        for places in combinations(range(width), count):
            members: dict[Key, list[Key]] = {}
            for key in groups:
                members.setdefault(tuple(key[p] for p in places), []).append(key)
            coarser = {
                value: Group(sum(groups[k].rows for k in keys), frozenset().union(*(groups[k].people for k in keys)))
                for value, keys in members.items()
            }
            published = coarser.keys() - suppress(coarser, LEAST).all
            found += [(members[value], coarser[value].rows) for value in published]
    return found


def tables(
    hidden: list[Key], lines: list[tuple[frozenset[Key], int]], filled: dict[Key, int]
) -> Iterator[dict[Key, int]]:
    """Every way to fill the hidden groups so that all totals hold."""
    for inside, total in lines:
        left = total - sum(filled.get(key, 0) for key in inside)
        empty = sum(key not in filled for key in inside)
        if left < 0 or (not empty and left):
            return
    if len(filled) == len(hidden):
        yield dict(filled)
        return
    key = hidden[len(filled)]
    most = min((total - sum(filled.get(k, 0) for k in inside) for inside, total in lines if key in inside), default=4)
    for rows in range(min(most, 30) + 1):
        yield from tables(hidden, lines, {**filled, key: rows})


def values_possible(groups: Mapping[Key, Group], hidden: frozenset[Key]) -> dict[Key, set[int]]:
    """What each hidden group can be, by everything that is published and every total that is known."""
    lines = []
    for keys, total in known_totals(groups):
        inside = frozenset(keys) & hidden
        if inside:
            lines.append((inside, total - sum(groups[k].rows for k in keys if k not in hidden)))
    possible: dict[Key, set[int]] = {key: set() for key in hidden}
    for number, table in enumerate(tables(sorted(hidden), lines, {})):
        for key, rows in table.items():
            possible[key].add(rows)
        if all(len(values) > 1 for values in possible.values()) or number > 20_000:
            break
    return possible


@some.composite
def cross_tables(draw: some.DrawFn) -> dict[Key, Group]:
    height, width = draw(some.integers(1, 3)), draw(some.integers(1, 3))
    cells = {(f"r{i}", f"c{j}"): draw(some.integers(0, 7)) for i in range(height) for j in range(width)}
    chosen = {key: group(rows) for key, rows in cells.items() if rows}
    return chosen or {("r0", "c0"): group(1)}


@settings(max_examples=400)
@given(cross_tables())
def test_no_suppressed_group_can_be_had_by_subtraction_from_every_total(groups: dict[Key, Group]) -> None:
    chosen = suppress(groups, LEAST)
    assert all(len(groups[key].people) >= LEAST for key in groups.keys() - chosen.all)
    if chosen.all == groups.keys():
        return  # nothing is published, so there is nothing to subtract
    possible = values_possible(groups, chosen.all)
    for key in chosen.primary:
        assert len(possible[key]) > 1, (groups, chosen, key)


def test_the_attacker_does_catch_a_table_without_complementary_suppression() -> None:
    groups = {("a",): group(1), ("b",): group(9), ("c",): group(5)}
    assert values_possible(groups, frozenset({("a",)})) == {("a",): {1}}
    chosen = suppress(groups, LEAST)
    assert (chosen.primary, chosen.complementary) == ({("a",)}, {("c",)})  # the smallest that protects


def test_two_groups_of_one_row_each_get_company() -> None:
    groups = {("a",): group(1), ("b",): group(1), ("c",): group(4), ("d",): group(8)}
    assert suppress(groups, LEAST).complementary == {("c",)}


def test_a_bridge_between_two_squares_is_found_though_every_line_has_two() -> None:
    """Each row and column has two suppressed cells or more, and yet one of them follows exactly."""
    square = [("r1", "c1"), ("r1", "c2"), ("r2", "c1"), ("r2", "c2")]
    other = [("r3", "c3"), ("r3", "c4"), ("r4", "c3"), ("r4", "c4")]
    bridge = ("r1", "c3")
    hidden = [*square, *other, bridge]
    rows = [[k for k in hidden if k[0] == f"r{i}"] for i in range(1, 5)]
    columns = [[k for k in hidden if k[1] == f"c{i}"] for i in range(1, 5)]
    assert min(len(line) for line in (*rows, *columns)) == 2
    assert determined([*rows, *columns]) == {bridge}


def test_people_count_and_not_rows() -> None:
    loud = Group(1_000, frozenset({"ann"}))
    groups = {("a",): loud, ("b",): group(9), ("c",): group(9)}
    assert suppress(groups, LEAST).primary == {("a",)}
    assert suppress({("a",): group(3), ("b",): group(4)}, LEAST).all == frozenset()
