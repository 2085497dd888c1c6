"""What units cost."""

from __future__ import annotations

import hashlib
import json
from fractions import Fraction
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feilun.accounts.tariffs import Mode
from feilun.accounts.terms import METERS, Counts, Part, Schedule, Tariff, Terms, Tier, amount
from feilun.errors import SettingError

units = st.integers(0, 10**7)
few = st.integers(0, 60)
nanos = st.integers(0, 10**7)
per_meter = st.dictionaries(st.sampled_from(METERS), units)


@st.composite
def tariffs(draw: st.DrawFn, small: bool = False) -> Tariff:
    mode = draw(st.sampled_from(["graduated", "volume", "package"]))
    per = st.integers(1, 7) if small else st.sampled_from([1, 2, 3, 7, 10, 1_000, 999_983])
    nano = st.integers(0, 20) if small else nanos
    if mode == "package":
        return Tariff("package", (Tier(None, draw(nano), draw(per)),))
    ends = sorted(draw(st.sets(st.integers(1, 40) if small else st.integers(1, 10**7), max_size=4)))
    flats = st.integers(0, 30)
    tiers = [Tier(end, draw(nano), draw(per), draw(flats)) for end in [*ends, None]]
    return Tariff(mode, tuple(tiers))


@st.composite
def any_terms(draw: st.DrawFn, small: bool = False) -> Terms:
    tiered = draw(st.dictionaries(st.sampled_from([*METERS, "pages"]), tariffs(small), max_size=3))
    simple = {m: n for m, n in draw(per_meter).items() if m not in tiered}
    included = draw(st.dictionaries(st.sampled_from([*METERS, "pages"]), few if small else units))
    return Terms("USD", draw(units), included, simple, tiered)


counts = st.builds(lambda r, i, t, p: Counts(r, i, t, pages=p), units, units, units, units)


@given(any_terms(), st.lists(counts, max_size=8), st.randoms(use_true_random=False))
def test_the_amounts_of_the_parts_sum_to_the_amount_of_the_whole_in_any_order_and_grouping(
    plan: Terms, parts: list[Counts], chance: Random
) -> None:
    whole = Counts()
    for part in parts:
        whole = whole.plus(part)
    chance.shuffle(parts)
    grouped: list[Counts] = []
    for part in parts:
        if grouped and chance.random() < 0.5:
            grouped[-1] = grouped[-1].plus(part)
        else:
            grouped.append(part)
    before, total = Counts(), 0
    for part in grouped:
        total += plan.amount(before, before.plus(part))
        before = before.plus(part)
    assert total == amount(plan, Counts(), whole) == plan.total(whole)
    assert total >= 0


@given(any_terms(), counts, counts)
def test_what_was_charged_is_taken_back_in_full(plan: Terms, before: Counts, after: Counts) -> None:
    assert plan.amount(before, after) == -plan.amount(after, before)


@given(any_terms(), counts, counts)
def test_parts_sum_to_the_amount_and_to_the_units(plan: Terms, before: Counts, more: Counts) -> None:
    after = before.plus(more)
    charged = 0
    for meter in {*METERS, "pages"}:
        parts = plan.parts(meter, before[meter], after[meter])
        charged += sum(part.exact_nano for part in parts)
        assert sum(part.units for part in parts if part.kind != "flat") == more[meter]
    assert charged == plan.amount(before, after)


@given(any_terms(), st.sampled_from([*METERS, "pages"]), st.lists(units, min_size=1, max_size=6))
def test_parts_of_each_price_telescope_too(plan: Terms, meter: str, steps: list[int]) -> None:
    def by_price(parts: list[Part]) -> dict[tuple[str, int], tuple[int, int]]:
        sums: dict[tuple[str, int], tuple[int, int]] = {}
        for part in parts:
            units, nano = sums.get((part.kind, part.tier), (0, 0))
            sums[part.kind, part.tier] = (units + part.units, nano + part.exact_nano)
        return {price: both for price, both in sums.items() if both != (0, 0)}

    pieces, before = [], 0
    for step in steps:
        pieces += plan.parts(meter, before, before + step)
        before += step
    assert by_price(pieces) == by_price(plan.parts(meter, 0, before))


@given(
    any_terms(small=True),
    st.lists(st.tuples(st.booleans(), st.tuples(few, few, few)), max_size=12),
)
def test_no_order_of_requests_can_cost_a_key_more_than_its_ceiling(
    plan: Terms, requests: list[tuple[bool, tuple[int, int, int]]]
) -> None:
    """Requests of two keys, mixed: what one of them is charged stays within the ceiling of its units."""
    before, mine, charged = Counts(), Counts(), 0
    for is_mine, (inputs, tokens, pages) in requests:
        one = Counts(1, inputs, tokens, pages=pages)
        if is_mine:
            mine = mine.plus(one)
            charged += plan.amount(before, before.plus(one))
        before = before.plus(one)
    assert charged <= plan.ceiling(mine)


@given(tariffs(small=True), few, few)
def test_a_ceiling_holds_at_every_position_and_is_reached_by_one_unit_price(t: Tariff, before: int, more: int) -> None:
    assert t.total(before + more) - t.total(before) <= t.ceiling(more, 1)
    one = Terms("USD", unit_nano={"tokens": 7}, included={"tokens": 5})
    assert one.ceiling(Counts(tokens=more)) == one.amount(Counts(tokens=5), Counts(tokens=5 + more))


def test_a_ceiling_covers_what_rounding_adds_to_requests_that_come_at_the_dearest_places() -> None:
    halves = Terms("USD", tariffs={"tokens": Tariff("graduated", (Tier(None, 1, per=2),))})
    dearest = [halves.amount(Counts(tokens=n), Counts(tokens=n + 1)) for n in (1, 2, 5, 6)]
    assert dearest == [1, 1, 1, 1], "four units, twice their exact price"
    assert halves.ceiling(Counts(requests=4, tokens=4)) >= sum(dearest)


def test_a_ceiling_of_units_that_may_come_one_by_one_counts_a_package_for_each() -> None:
    packages = Terms("USD", tariffs={"tokens": Tariff("package", (Tier(None, 5, per=1000),))})
    assert packages.ceiling(Counts(tokens=512)) == 512 * 5
    assert packages.ceiling(Counts(requests=1, tokens=512)) == 5
    assert packages.ceiling(Counts(requests=2, tokens=1500)) == 3 * 5


@given(st.integers(0, 10**12), units, units)
def test_one_graduated_tier_is_a_unit_price(nano: int, before: int, more: int) -> None:
    tiered = Terms("USD", tariffs={"tokens": Tariff("graduated", (Tier(None, nano),))}, included={"tokens": 9})
    simple = Terms("USD", unit_nano={"tokens": nano}, included={"tokens": 9})
    span = (Counts(tokens=before), Counts(tokens=before + more))
    assert tiered.amount(*span) == simple.amount(*span)
    assert tiered.parts("tokens", before, before + more) == simple.parts("tokens", before, before + more)
    assert tiered.ceiling(span[1]) == simple.ceiling(span[1])


@given(nanos, st.integers(1, 10**6), units)
def test_a_price_for_several_units_is_divided_once_half_to_even(nano: int, per: int, used: int) -> None:
    exact = Fraction(used * nano, per)
    assert Tariff("graduated", (Tier(None, nano, per),)).total(used) == round(exact)


def test_half_of_a_nano_unit_goes_to_the_even_one() -> None:
    halves = Tariff("graduated", (Tier(None, 1, per=2),))
    assert [halves.total(n) for n in range(6)] == [0, 0, 1, 2, 2, 2]


def test_each_unit_has_the_price_of_its_tier_where_tiers_are_graduated() -> None:
    tariff = Tariff("graduated", (Tier(10, 5), Tier(20, 3, flat_nano=100), Tier(None, 1)))
    assert [tariff.total(n) for n in (0, 1, 10, 11, 20, 21)] == [0, 5, 50, 153, 180, 181]
    kinds = [(part.tier, part.kind, part.units, part.exact_nano) for part in tariff.parts(9, 12)]
    assert kinds == [(0, "unit", 1, 5), (1, "unit", 2, 6), (1, "flat", 1, 100)]


def test_all_units_have_the_price_of_the_reached_tier_under_volume_and_an_amount_may_be_negative() -> None:
    tariff = Tariff("volume", (Tier(10, 5, flat_nano=7), Tier(None, 1)))
    assert [tariff.total(n) for n in (0, 1, 10, 11)] == [0, 12, 57, 11]
    plan = Terms("USD", tariffs={"tokens": tariff})
    assert plan.amount(Counts(tokens=10), Counts(tokens=11)) == -46
    kinds = [(part.tier, part.kind, part.units, part.exact_nano) for part in plan.parts("tokens", 10, 11)]
    assert kinds == [(0, "volume", -10, -50), (0, "flat", -1, -7), (1, "volume", 11, 11)]


@given(nanos, st.integers(1, 5_000), units)
def test_a_package_that_has_begun_is_charged_whole(nano: int, per: int, used: int) -> None:
    tariff = Tariff("package", (Tier(None, nano, per),))
    whole, rest = divmod(used, per)
    assert tariff.total(used) == (whole + (rest > 0)) * nano


def test_tiers_count_from_the_first_unit_that_is_not_included() -> None:
    tariff = Tariff("graduated", (Tier(10, 5), Tier(None, 1)))
    plan = Terms("USD", included={"tokens": 100}, tariffs={"tokens": tariff})
    assert [plan.total(Counts(tokens=n)) for n in (100, 110, 111)] == [0, 50, 51]
    assert [part.kind for part in plan.parts("tokens", 99, 111)] == ["included", "unit", "unit"]


@given(any_terms(), any_terms())
def test_a_version_is_the_terms_and_nothing_else(one: Terms, other: Terms) -> None:
    again = Terms.from_json(one.as_json())
    assert again == one
    assert again.version == one.version
    assert (one.version == other.version) == (one == other)


def test_everything_that_decides_an_amount_is_in_the_version_and_limits_are_not() -> None:
    plain = Terms("USD", 1)
    dearer = [
        Terms("USD", 1, minimum_nano=1),
        Terms("USD", 1, trial_days=1),
        Terms("USD", 1, prorate="all"),
        Terms("USD", 1, prorate="none"),
        Terms("USD", 1, tariffs={"tokens": Tariff("volume", (Tier(None, 1),))}),
        Terms("USD", 1, tariffs={"tokens": Tariff("graduated", (Tier(None, 1),))}),
    ]
    assert len({terms.version for terms in (plain, *dearer)}) == 7
    assert [Terms.from_json(terms.as_json()) for terms in dearer] == dearer
    limited = Terms("USD", 1, quota={"tokens": 5}, warn_percent=(50,), prepaid=True)
    assert limited.version == plain.version


def test_terms_from_before_there_were_tiers_keep_their_bytes_and_their_version() -> None:
    written = (
        '{"currency":"USD","included":{"inputs":0,"requests":10000,"tokens":0},"monthly_nano":19000000000,'
        '"unit_nano":{"inputs":0,"requests":800000,"tokens":0}}'
    )
    plan = Terms.from_json(written)
    assert plan.as_json() == written
    assert plan.version == hashlib.sha256(written.encode()).hexdigest()
    assert plan == Terms("USD", 19 * 10**9, {"requests": 10_000}, {"requests": 800_000})


def test_a_schedule_gives_the_terms_of_a_moment() -> None:
    one, two, three = (Terms("USD", n) for n in (1, 2, 3))
    plan = Schedule(((0, one), (100, two), (200, three)))
    assert [plan.at(us) for us in (-1, 0, 99, 100, 199, 200, 10**18)] == [one, one, one, two, two, three, three]
    assert plan.newest is three
    for entries in ((), ((5, one), (5, two)), ((5, one), (4, two))):
        with pytest.raises(ValueError, match="schedule"):
            Schedule(entries)


@pytest.mark.parametrize(
    ("terms", "what"),
    [
        ({"included": {"Tokens": 1}}, "cannot be a meter"),
        ({"unit_nano": {"1st": 1}}, "cannot be a meter"),
        ({"included": {"tokens": -1}}, "negative"),
        ({"unit_nano": {"tokens": -1}}, "negative"),
        ({"minimum_nano": -1}, "negative"),
        ({"quota": {"tokens": -1}}, "negative"),
        ({"trial_days": -1}, "negative"),
        ({"prorate": "some"}, "prorate"),
        ({"unit_nano": {"a": 1}, "tariffs": {"a": Tariff("package", (Tier(None, 1),))}}, "two prices"),
    ],
)
def test_terms_that_mean_nothing_are_refused(terms: dict[str, object], what: str) -> None:
    with pytest.raises(SettingError, match=what):
        Terms("USD", **terms)


@pytest.mark.parametrize(
    ("mode", "tiers", "what"),
    [
        ("graduated", (), "no end"),
        ("graduated", (Tier(5, 1),), "no end"),
        ("graduated", (Tier(None, 1), Tier(None, 1)), "ascend"),
        ("volume", (Tier(5, 1), Tier(5, 1), Tier(None, 1)), "ascend"),
        ("volume", (Tier(0, 1), Tier(None, 1)), "ascend"),
        ("graduated", (Tier(None, -1),), "negative"),
        ("graduated", (Tier(None, 1, 0),), "at least 1"),
        ("package", (Tier(5, 1), Tier(None, 1)), "one price"),
        ("package", (Tier(None, 1, flat_nano=1),), "one price"),
        ("stairs", (Tier(None, 1),), "cannot be 'stairs'"),
    ],
)
def test_tariffs_that_mean_nothing_are_refused(mode: Mode, tiers: tuple[Tier, ...], what: str) -> None:
    with pytest.raises(SettingError, match=what):
        Tariff(mode, tiers)


def test_terms_are_json_that_others_can_read() -> None:
    plan = Terms("EUR", tariffs={"pages": Tariff("volume", (Tier(1000, 5, 10), Tier(None, 4, 10)))}, minimum_nano=9)
    assert json.loads(plan.as_json())["tariffs"]["pages"] == {
        "mode": "volume",
        "tiers": [
            {"up_to": 1000, "nano": 5, "per": 10, "flat_nano": 0},
            {"up_to": None, "nano": 4, "per": 10, "flat_nano": 0},
        ],
    }
