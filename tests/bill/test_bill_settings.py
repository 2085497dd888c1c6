from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from feilun.bill.settings import BillSettings
from feilun.errors import SettingError
from feilun.store.money import Money


def problems(values: dict[str, Any]) -> list[tuple[str, str]]:
    with pytest.raises(ValidationError) as caught:
        BillSettings.model_validate(values)
    return [(".".join(map(str, e["loc"])), e["msg"].removeprefix("Value error, ")) for e in caught.value.errors()]


def test_the_section_of_the_example_becomes_terms(settings: BillSettings) -> None:
    terms = settings.terms("starter")
    assert (terms.currency, terms.monthly_nano) == ("USD", 19 * 10**9)
    assert terms.included["requests"] == 3 and terms.unit_nano == {"requests": 800_000}
    assert settings.core_hour == Money(50_000_000, "USD")
    assert set(settings.all_terms()) == {"starter", "tokens", "free"}
    assert BillSettings.model_validate(settings.model_dump()) == settings


def test_case_45_every_problem_is_told_at_once_with_its_place() -> None:
    found = problems(
        {
            "core_hour": "cheap",
            "plans": {
                "a": {"monthly": 19, "included": {"reqests": 1}, "overage": {"tokens": "0.0000000001 USD"}},
                "b": {"budget": "-1 USD", "included": {"requests": True}},
            },
        }
    )
    assert [place for place, _ in found] == [
        "core_hour",
        "plans.a.monthly",
        "plans.a.included.reqests",
        "plans.a.overage.tokens",
        "plans.b.included.requests",
        "plans.b.budget",
    ]
    assert dict(found)["plans.a.monthly"] == "money is written as text, like '19.00 USD'"


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"included": {"requests": 5}}, "has no price"),
        ({"monthly": "19.005 USD"}, "finer than the smallest coin"),
        ({"monthly": "19.00 EUR"}, "use one currency"),
        ({"overage": {"requests": "1 JPY"}}, "use one currency"),
    ],
)
def test_a_plan_that_does_not_agree_with_itself_is_refused(plan: dict[str, Any], message: str) -> None:
    ((_, said),) = problems({"plans": {"a": plan}})
    assert message in said


def test_an_unknown_plan_is_answered_with_the_known_ones(settings: BillSettings) -> None:
    with pytest.raises(SettingError) as caught:
        settings.terms("xyz")
    assert caught.value.hint == "known: free, starter, tokens"
