from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU, CHRF

from feilun.tasks import metrics_text

SENTENCES = st.lists(
    st.tuples(*[st.lists(st.sampled_from(["the", "film", "was", "a", "fine", "end,"]), max_size=9).map(" ".join)] * 2),
    min_size=1,
    max_size=6,
)


def figures(pairs: list[tuple[str, str]]) -> dict[str, float]:
    found = metrics_text.of([r for r, _ in pairs], [s for _, s in pairs])
    return {m.name: float(m.value(m.rows.sum(0))) for m in found}


@settings(max_examples=40, deadline=None)
@given(pairs=SENTENCES)
def test_bleu_and_chrf_of_a_corpus_are_sacrebleus(pairs: list[tuple[str, str]]) -> None:
    said, right = [s for _, s in pairs], [[r for r, _ in pairs]]
    found = figures(pairs)
    assert found["chrf"] == pytest.approx(CHRF().corpus_score(said, right).score / 100, abs=1e-9)
    assert found["bleu"] == pytest.approx(BLEU(tokenize="13a").corpus_score(said, right).score / 100, abs=1e-9)


def test_chinese_is_counted_by_characters() -> None:
    pairs = [("今天天气很好", "今天天气不好"), ("我们去公园", "我们去公园吧")]
    score = BLEU(tokenize="zh").corpus_score([s for _, s in pairs], [[r for r, _ in pairs]]).score / 100
    found = figures(pairs)
    assert found["bleu"] == pytest.approx(score, abs=1e-9)
    assert found["rouge_l"] == pytest.approx((2 * 5 / 12 + 2 * 5 / 11) / 2)


def test_a_right_answer_is_right_in_every_figure_and_a_wrong_one_in_none() -> None:
    assert list(figures([("a fine film was shown", "a fine film was shown")]).values()) == pytest.approx([1.0] * 5)
    assert list(figures([("aaa bbb", "ccc ddd")]).values()) == [0.0] * 5


def test_a_resample_is_counted_from_sums() -> None:
    pairs = [("the film was fine", "the film was a bore"), ("a good end", "a good end"), ("two hours", "three")]
    for metric in metrics_text.of([r for r, _ in pairs], [s for _, s in pairs]):
        weights = np.array([[2.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
        first = metrics_text.of([pairs[i][0] for i in (0, 0, 1)], [pairs[i][1] for i in (0, 0, 1)])
        wanted = next(m for m in first if m.name == metric.name)
        assert metric.value(weights @ metric.rows)[0] == pytest.approx(float(wanted.value(wanted.rows.sum(0))))


def test_perplexity_weighs_tokens_not_rows() -> None:
    metric = metrics_text.perplexity([2.0, 0.0], [1, 3])
    assert float(metric.value(metric.rows.sum(0))) == pytest.approx(np.exp(0.5)) and not metric.higher_is_better
