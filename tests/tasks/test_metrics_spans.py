from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feilun.errors import DataError
from feilun.tasks import metrics_answers, metrics_spans
from feilun.tasks.bootstrap import draws
from feilun.tasks.metrics_spans import Span

TAGS = ("O", "B-x", "I-x", "B-y", "I-y")
rows_of_tags = st.lists(
    st.integers(1, 9).flatmap(lambda n: st.tuples(*[st.lists(st.sampled_from(TAGS), min_size=n, max_size=n)] * 2)),
    min_size=1,
    max_size=8,
)


def chunks(tags: list[str]) -> set[Span]:
    """As the CoNLL script and seqeval read tags: an I- that nothing begins begins a span itself."""
    found, begun = set(), None
    for i, tag in enumerate([*tags, "O"]):
        kind = tag[2:]
        if begun is not None and (not tag.startswith("I-") or kind != tags[begun][2:]):
            found.add((begun, i, tags[begun][2:]))
            begun = None
        if begun is None and tag != "O":
            begun = i
    return found


@given(rows_of_tags)
def test_figures_are_those_of_counting_spans_by_hand(rows: list[tuple[list[str], list[str]]]) -> None:
    truth, found = ([chunks(row[side]) for row in rows] for side in (0, 1))
    got = {m.name: m.figure for m in metrics_spans.of([[*t] for t in truth], [[*f] for f in found], ["x", "y"])}

    def counts(kinds: str) -> tuple[float, float, float]:
        right = sum(len([s for s in t & f if s[2] in kinds]) for t, f in zip(truth, found, strict=True))
        said = sum(len([s for s in f if s[2] in kinds]) for f in found)
        true = sum(len([s for s in t if s[2] in kinds]) for t in truth)
        precision, recall = right / said if said else 0.0, right / true if true else 0.0
        return precision, recall, 2 * precision * recall / (precision + recall) if right else 0.0

    assert (got["precision"], got["recall"], got["f1"]) == pytest.approx(counts("xy"))
    assert (got["f1[x]"], got["f1[y]"]) == pytest.approx((counts("x")[2], counts("y")[2]))
    kinds = sorted({s[2] for spans in [*truth, *found] for s in spans})
    assert got["macro_f1"] == pytest.approx(np.mean([counts(k)[2] for k in kinds]) if kinds else 0.0)
    assert got["exact_rows"] == pytest.approx(np.mean([t == f for t, f in zip(truth, found, strict=True)]))


def test_an_interval_is_of_rows_drawn_again() -> None:
    truth: list[list[Span]] = [[(0, 2, "x")]] * 200
    found: list[list[Span]] = [[(0, 2, "x")] if i % 2 else [(0, 1, "x")] for i in range(200)]
    f1 = metrics_spans.of(truth, found, ["x"])[0]
    drawn = draws([f1], 500, 0)[0]
    assert f1.figure == pytest.approx(0.5)
    assert np.percentile(drawn, 2.5) == pytest.approx(0.43, abs=0.02)


def test_a_true_span_of_an_unknown_label_is_named() -> None:
    with pytest.raises(DataError, match="'place'"):
        metrics_spans.of([[(0, 1, "place")]], [[]], ["person"])


@pytest.mark.parametrize(
    ("right", "said", "f1", "exact"),
    [
        (["The Film!"], "film", 1.0, 1.0),  # case, articles and marks do not count
        (["北京大学"], "北京", 2 / 3, 0.0),  # by characters: precision 1, recall 1/2
        (["two hours", "2 hours"], "2 hours.", 1.0, 1.0),  # the best of the right ones
        ([], "", 1.0, 1.0),
        ([], "a film", 0.0, 0.0),
        (["a film"], "", 0.0, 0.0),
        (["１９９８年"], "1998年", 1.0, 1.0),  # wide digits are digits
        (["the the cat"], "cat cat", 2 / 3, 0.0),  # each word as often as it stands there
    ],
)
def test_an_answer_is_measured_as_in_squad(right: list[str], said: str, f1: float, exact: float) -> None:
    got = {m.name: m.figure for m in metrics_answers.of([right], [said])}
    assert got["token_f1"] == pytest.approx(f1)
    assert got["exact_match"] == exact
    assert got["knows_whether"] == (bool(right) == bool(said))


@given(st.lists(st.tuples(st.floats(-5, 5), st.sampled_from(["film", "story", ""])), min_size=1, max_size=12))
def test_no_threshold_is_better_than_the_best(rows: list[tuple[float, str]]) -> None:
    scores = np.array([score for score, _ in rows])
    truth = [[right] if right else [] for _, right in rows]

    def f1(threshold: float) -> float:
        said = ["film" if score > threshold else "" for score in scores]
        return metrics_answers.of(truth, said)[0].figure

    chosen = metrics_answers.best_threshold(truth, ["film"] * len(rows), scores)
    assert f1(chosen) == pytest.approx(max(f1(t) for t in [-9.0, 0.0, *scores]))
    assert chosen == 0 or f1(chosen) > f1(0)
