"""Figures of written answers: as sacrebleu counts BLEU and chrF over a corpus, and ROUGE-L; shares from 0 to 1.

What each row adds is kept, so that a bootstrap counts a corpus again from sums, not a mean of sentences.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from feilun.tasks import metrics, metrics_answers
from feilun.tasks.metrics import Floats, Metric

ORDER, CHARACTERS, BETA = 4, 6, 2.0  # the longest n-grams of BLEU and chrF; chrF counts recall twice
_CHINESE = re.compile(r"[\u3400-\u9fff]")


def of(truth: Sequence[str], said: Sequence[str]) -> list[Metric]:
    """chrF, BLEU, ROUGE-L, F1 of words and exact matches of N answers with the right ones."""
    pairs = list(zip(truth, said, strict=True))
    return [
        Metric("chrf", np.array([_characters(r, s) for r, s in pairs], np.float64), chrf),
        Metric("bleu", bleu_rows(truth, said), bleu),
        metrics.mean("rouge_l", [rouge_l(r, s) for r, s in pairs]),
        metrics.mean("token_f1", [metrics_answers.token_f1(r, s) for r, s in pairs]),
        metrics.mean("exact_match", [r.strip() == s.strip() for r, s in pairs]),
    ]


def chrf(sums: Floats) -> Floats:
    """Character n-gram F-score (Popović 2015) from sums (..., 6 * 3) of n-grams said, right and in both."""
    counts = sums.reshape(*sums.shape[:-1], CHARACTERS, 3)
    said, right, both = counts[..., 0], counts[..., 1], counts[..., 2]
    used = (said > 0) & (right > 0)
    orders = np.maximum(used.sum(-1), 1)
    precision = (_over(both, said) * used).sum(-1) / orders
    recall = (_over(both, right) * used).sum(-1) / orders
    return _over((1 + BETA**2) * precision * recall, BETA**2 * precision + recall)


def bleu_rows(truth: Sequence[str], said: Sequence[str]) -> Floats:
    """(N, 10): words said and right, n-grams found again, n-grams said. Chinese is counted by characters."""
    from sacrebleu.metrics import BLEU

    chinese = sum(bool(_CHINESE.search(text)) for text in truth) * 2 > len(truth)
    counter = BLEU(tokenize="zh" if chinese else "13a", effective_order=True)
    rows = np.zeros((len(truth), 2 + 2 * ORDER))
    for i, (right, answer) in enumerate(zip(truth, said, strict=True)):
        found = counter.sentence_score(answer, [right])
        rows[i] = [found.sys_len, found.ref_len, *found.counts, *found.totals]
    return rows


def bleu(sums: Floats) -> Floats:
    """BLEU (Papineni et al. 2002) with sacrebleu's smoothing, from sums (..., 10) of ``bleu_rows``."""
    said, right = sums[..., 0], sums[..., 1]
    found, total = sums[..., 2 : 2 + ORDER], sums[..., 2 + ORDER :]
    none = (found == 0) & (total > 0)
    smooth = 2.0 ** np.cumsum(none, -1)  # each order without a match counts half of the one before
    shares = np.where(none, _over(np.ones_like(total), smooth * total), _over(found, total))
    whole = np.where(shares > 0, np.log(np.maximum(shares, 1e-300)), -np.inf).mean(-1)
    brief = np.exp(np.minimum(0.0, 1 - _over(right, said)))
    score: Floats = np.where((found.sum(-1) > 0) & (said > 0), brief * np.exp(whole), 0.0)
    return score


def rouge_l(right: str, said: str) -> float:
    """F1 of the longest common subsequence of words (Lin 2004); a character is a word where there are no spaces.

    >>> rouge_l("the film was fine", "the plot was fine")
    0.75
    """
    one, other = metrics_answers.split(right), metrics_answers.split(said)
    if not one or not other:
        return float(one == other)
    best = [0] * (len(other) + 1)
    for word in one:
        before = 0
        for at, theirs in enumerate(other, 1):
            kept = best[at]
            best[at] = before + 1 if word == theirs else max(best[at], best[at - 1])
            before = kept
    return 2 * best[-1] / (len(one) + len(other))


def perplexity(surprise: Sequence[float], tokens: Sequence[int]) -> Metric:
    """exp of the mean surprise of a token, from each row's sum and count."""
    rows = np.stack([np.asarray(surprise, np.float64), np.asarray(tokens, np.float64)], 1)
    return Metric("perplexity", rows, _perplexity, higher_is_better=False)


def _perplexity(sums: Floats) -> Floats:
    found: Floats = np.where(sums[..., 1] > 0, np.exp(_over(sums[..., 0], sums[..., 1])), np.nan)
    return found


def _characters(right: str, said: str) -> list[int]:
    one, other = "".join(right.split()), "".join(said.split())
    counts = []
    for size in range(1, CHARACTERS + 1):
        ours = Counter(other[i : i + size] for i in range(len(other) - size + 1))
        theirs = Counter(one[i : i + size] for i in range(len(one) - size + 1))
        # as sacrebleu has it: where the right answer is too short for an n-gram, none that was said counts
        counts += [ours.total() if theirs else 0, theirs.total(), (ours & theirs).total()]
    return counts


def _over(part: Floats, whole: Floats) -> Floats:
    share: Floats = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
    return share
