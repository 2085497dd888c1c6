"""The decision: what a candidate would earn, less what it cost, and what vetoes it."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from feilun.relearn.decision import DAY_US, Cohort, OldDomain, Stakes, decide, inputs_per_day

STAKES = Stakes(
    horizon_days=30,
    value_nano=2_000_000,
    training_cost_nano=5_000_000,
    max_drop=0.01,
    min_held_out=20,
    currency="USD",
)


def cohort(name="acme", per_day=1000.0, rows=200, now=0.6, candidate=0.8, corrected=1.0):
    def right(share):
        return tuple(i < round(share * rows) for i in range(rows))

    return Cohort(name, per_day, corrected, right(now), right(candidate))


def test_a_candidate_that_earns_more_than_it_cost_is_promoted():
    decision = decide([cohort()], [OldDomain("films", 0.60, 0.60)], STAKES, gates={"quality": True})
    assert decision.verdict == "promote"
    assert decision.inputs_over_horizon == 30_000
    assert decision.value_nano == 30_000 * 2_000_000 // 5  # 0.2 more right answers an input
    assert decision.margin_nano == decision.value_nano - 5_000_000


def test_an_old_domain_that_falls_too_far_vetoes_whatever_the_money_says():
    decision = decide([cohort()], [OldDomain("films", 0.60, 0.58)], STAKES, gates={})
    assert decision.verdict == "keep" and "films falls by 0.020" in decision.reasons[0]


def test_a_gate_that_does_not_hold_vetoes():
    decision = decide([cohort()], [], STAKES, gates={"quality": False})
    assert decision.verdict == "keep" and "'quality'" in decision.reasons[0]


def test_a_better_model_that_nobody_asks_is_not_worth_its_training():
    decision = decide([cohort(per_day=0.001)], [], STAKES, gates={})
    assert decision.verdict == "keep" and "it would lose" in decision.reasons[0]


def test_no_gain_is_assumed_for_what_nobody_corrected():
    all_of_it, a_tenth = (decide([cohort(corrected=share)], [], STAKES, gates={}) for share in (1.0, 0.1))
    assert a_tenth.inputs_over_horizon == all_of_it.inputs_over_horizon // 10
    assert a_tenth.value_nano == all_of_it.value_nano // 10


def test_a_handful_of_corrections_promotes_nothing():
    decision = decide([cohort(rows=8, now=0.0, candidate=1.0)], [], STAKES, gates={})
    assert decision.verdict == "keep" and "8 held-out corrections are too few" in decision.reasons[0]


def test_the_customers_weigh_as_much_as_they_ask():
    better, worse = cohort("a", per_day=900.0), cohort("b", per_day=100.0, now=0.8, candidate=0.6)
    assert abs(decide([better, worse], [], STAKES, gates={}).expected_gain - (0.9 * 0.2 - 0.1 * 0.2)) < 1e-9


def test_the_interval_lies_below_the_expectation_and_narrows_with_rows():
    few, many = (decide([cohort(rows=n)], [], STAKES, gates={}) for n in (50, 5000))
    assert few.expected_gain_low < many.expected_gain_low < many.expected_gain
    assert few.margin_low_nano < few.margin_nano


rights = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40)


@given(rights, st.integers(0, 10**12), st.integers(0, 10**9))
def test_a_dearer_training_never_turns_keep_into_promote(pairs, cost, more):
    one = Cohort("a", 500.0, 1.0, tuple(a for a, _ in pairs), tuple(b for _, b in pairs))
    cheap = decide([one], [], replace(STAKES, training_cost_nano=cost), gates={})
    dear = decide([one], [], replace(STAKES, training_cost_nano=cost + more), gates={})
    assert not (cheap.verdict == "keep" and dear.verdict == "promote")
    assert cheap.margin_nano - dear.margin_nano == more


def test_traffic_of_less_than_a_day_counts_as_a_day():
    assert inputs_per_day(1000, 0, DAY_US // 100) == 1000
    assert inputs_per_day(1000, 0, 4 * DAY_US) == 250
