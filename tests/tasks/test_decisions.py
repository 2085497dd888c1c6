from __future__ import annotations

from typing import Any

import pytest

from feilun.tasks import decisions

SPAN = {"start": 3, "end": 7, "label": "place", "score": 0.9, "text": "Rome"}


@pytest.mark.parametrize(
    ("one", "other", "agree"),
    [
        ({"label": "a", "score": 0.9}, {"label": "a", "score": 0.6}, True),
        ({"label": "a", "score": 0.9}, {"label": "b", "score": 0.9}, False),
        ({"labels": ["a", "b"]}, {"labels": ["b", "a"]}, True),  # an order by scores is scores
        ({"labels": ["a"]}, {"labels": []}, False),
        ({"spans": [SPAN]}, {"spans": [{**SPAN, "score": 0.2}]}, True),
        ({"spans": [SPAN]}, {"spans": [{**SPAN, "end": 6}]}, False),
        ({"spans": [SPAN]}, {"spans": [{**SPAN, "text": "ROME"}]}, True),  # the same place of a text in other case
        ({"answer": "", "start": None, "score": 0.1}, {"answer": "it", "start": 0, "score": 0.9}, False),
        ({"text": "yes"}, {"text": "no"}, False),
    ],
)
def test_two_answers_agree_when_they_decide_the_same(one: dict[str, Any], other: dict[str, Any], agree: bool) -> None:
    assert (decisions.of(one) == decisions.of(other)) == agree


def test_an_answer_of_numbers_alone_decides_nothing() -> None:
    assert decisions.of({"score": 0.5}) == decisions.of({"vector": [0.6, 0.8]}) == set()


def test_scores_of_the_same_span_are_compared_wherever_it_stands_in_the_list() -> None:
    first, second = decisions.scores({"spans": [SPAN]}), decisions.scores({"spans": [{**SPAN, "start": 0}, SPAN]})
    assert first.keys() < second.keys() and list(first.values()) == [0.9]
    assert list(decisions.scores({"vector": [0.6, 0.8]}).values()) == [0.6, 0.8]
