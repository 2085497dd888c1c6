"""Promote or keep: what the candidate is expected to earn over the horizon, less what it cost.

The gain is measured on held-out corrections, customer by customer, and counted for the share of that customer's
traffic that was corrected at all: people correct what is wrong, so of the rest nothing is known and no gain is
assumed. The expectation uses the measured gain; the lower end of its interval is told beside it. An old domain that
falls by more than the limit, or too few held-out corrections, veto the promotion whatever the money says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from feilun.store.money import format_about

DAY_US = 86_400 * 10**6


@dataclass(frozen=True)
class Cohort:
    """One customer's held-out corrections: how often the champion and the candidate are right."""

    name: str
    inputs_per_day: float
    corrected_share: float  # of its inputs, right ones confirmed and wrong ones corrected
    champion_right: tuple[bool, ...]
    candidate_right: tuple[bool, ...]

    @property
    def held_out(self) -> int:
        """How many held-out corrections there are."""
        return len(self.champion_right)

    @property
    def judged_per_day(self) -> float:
        """Inputs a day of the kind that the held-out corrections speak for."""
        return self.inputs_per_day * self.corrected_share

    @property
    def gain(self) -> float:
        """Difference in accuracy, candidate less champion."""
        return (sum(self.candidate_right) - sum(self.champion_right)) / self.held_out


@dataclass(frozen=True)
class OldDomain:
    """A domain that the champion was trained on, before and after, on its held-out rows."""

    name: str
    champion_macro_f1: float
    candidate_macro_f1: float

    @property
    def drop(self) -> float:
        """How much macro-F1 falls; negative where it rises."""
        return self.champion_macro_f1 - self.candidate_macro_f1


@dataclass(frozen=True)
class Stakes:
    """What is weighed: money in nano-units of ``currency``."""

    horizon_days: int
    value_nano: int  # worth of one more right answer
    training_cost_nano: int  # measured, of this candidate
    max_drop: float  # of an old domain's macro-F1
    min_held_out: int  # corrections, of all customers together
    currency: str


@dataclass(frozen=True)
class Decision:
    """The verdict, the numbers it rests on, and the reasons in words. Money is in nano-units."""

    verdict: str  # promote, keep
    reasons: tuple[str, ...]
    expected_gain: float  # accuracy over the traffic of the customers that gave feedback
    expected_gain_low: float  # 2.5 % quantile of the paired bootstrap
    inputs_over_horizon: int
    value_nano: int
    training_cost_nano: int
    margin_nano: int
    margin_low_nano: int
    currency: str
    cohorts: tuple[dict[str, Any], ...]
    old_domains: tuple[dict[str, Any], ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for ``--json`` and for the row of the turn."""
        return asdict(self)


def decide(
    cohorts: Sequence[Cohort],
    old_domains: Sequence[OldDomain],
    stakes: Stakes,
    *,
    gates: Mapping[str, bool],
    seed: int = 0,
) -> Decision:
    """Weigh a candidate against the champion.

    Args:
        cohorts: customers with held-out corrections.
        old_domains: what must not be forgotten.
        gates: named checks that must hold, such as the parity of the compressed model.

    Returns:
        ``promote`` when the expected margin is above 0, no old domain falls too far, and every gate holds.
    """
    per_day = sum(cohort.judged_per_day for cohort in cohorts)
    inputs = round(per_day * stakes.horizon_days)
    gain, low = _gain(cohorts, seed)
    margin = _worth(gain, inputs, stakes.value_nano) - stakes.training_cost_nano
    against = [
        f"{old.name} falls by {old.drop:.3f} macro-F1, more than the limit of {stakes.max_drop}"
        for old in old_domains
        if old.drop > stakes.max_drop
    ]
    against += [f"the gate '{name}' does not hold" for name, held in gates.items() if not held]
    held_out = sum(cohort.held_out for cohort in cohorts)
    if held_out < stakes.min_held_out:
        against.append(f"{held_out} held-out corrections are too few to judge by, {stakes.min_held_out} are needed")
    if margin <= 0:
        against.append(f"it would lose {format_about(-margin, stakes.currency)} over {stakes.horizon_days} days")
    earns = (
        f"{gain:+.3f} accuracy (95 %: at least {low:+.3f}) on {inputs:,} inputs over {stakes.horizon_days} days "
        "is worth "
        f"{format_about(_worth(gain, inputs, stakes.value_nano), stakes.currency)}, training cost "
        f"{format_about(stakes.training_cost_nano, stakes.currency)}"
    )
    return Decision(
        verdict="keep" if against else "promote",
        reasons=(*against, earns),
        expected_gain=gain,
        expected_gain_low=low,
        inputs_over_horizon=inputs,
        value_nano=_worth(gain, inputs, stakes.value_nano),
        training_cost_nano=stakes.training_cost_nano,
        margin_nano=margin,
        margin_low_nano=_worth(low, inputs, stakes.value_nano) - stakes.training_cost_nano,
        currency=stakes.currency,
        cohorts=tuple(_describe(cohort) for cohort in cohorts),
        old_domains=tuple(asdict(old) | {"drop": old.drop} for old in old_domains),
    )


def _describe(cohort: Cohort) -> dict[str, Any]:
    return {
        "name": cohort.name,
        "inputs_per_day": cohort.inputs_per_day,
        "corrected_share": cohort.corrected_share,
        "held_out": cohort.held_out,
        "champion_accuracy": sum(cohort.champion_right) / cohort.held_out,
        "candidate_accuracy": sum(cohort.candidate_right) / cohort.held_out,
    }


def _gain(cohorts: Sequence[Cohort], seed: int, resamples: int = 2000) -> tuple[float, float]:
    """Traffic-weighted gain in accuracy, and the 2.5 % quantile of its paired bootstrap."""
    import numpy as np

    per_day = sum(cohort.judged_per_day for cohort in cohorts)
    if per_day <= 0:
        return 0.0, 0.0
    generator = np.random.default_rng(seed)
    drawn = np.zeros(resamples)
    for cohort in cohorts:
        change = np.array(cohort.candidate_right, dtype=float) - np.array(cohort.champion_right, dtype=float)
        picks = generator.integers(0, len(change), size=(resamples, len(change)))
        drawn += change[picks].mean(axis=1) * (cohort.judged_per_day / per_day)
    point = sum(cohort.gain * cohort.judged_per_day for cohort in cohorts) / per_day
    return point, float(np.quantile(drawn, 0.025))


def _worth(gain: float, inputs: int, value_nano: int) -> int:
    """An estimate in nano-units: the gain as an exact fraction, so that money itself is never a float."""
    return int(Fraction(gain).limit_denominator(10**9) * inputs * value_nano)


def inputs_per_day(inputs: int, first_us: int, now_us: int) -> float:
    """Traffic from the ledger: what came in, over the time since the first of it, taken as at least a day."""
    return inputs / max((now_us - first_us) / DAY_US, 1.0)
