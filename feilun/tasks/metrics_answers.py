"""Figures of short answers in words against the right ones, as SQuAD (Rajpurkar et al. 2016) and CMRC 2018 count them.

Letters' case, punctuation and, in English, articles do not count. Words are what stands between spaces, and each
character of a script that is written without them.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from feilun.tasks.metrics import Metric, mean

ARTICLES = {"a", "an", "the"}
# Chinese and Japanese characters, kana, Thai, Lao, Khmer and Burmese: one word each; and whatever stands between spaces
_WORD = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f]"
    r"|[^\s\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    r"\U00020000-\U0003134f]+"
)


def of(truth: Sequence[Sequence[str]], said: Sequence[str]) -> list[Metric]:
    """F1 of words, exact matches, and how often it was known whether there is an answer.

    Args:
        truth: each row's right answers, any of which will do; none where there is no answer, and then "" is right.
        said: one answer to each row.
    """
    rights = [row or [""] for row in truth]
    return [
        mean("token_f1", [max(token_f1(r, s) for r in row) for row, s in zip(rights, said, strict=True)]),
        mean("exact_match", [max(words(r) == words(s) for r in row) for row, s in zip(rights, said, strict=True)]),
        mean("knows_whether", [bool(row) == bool(s) for row, s in zip(truth, said, strict=True)]),
    ]


def best_threshold(truth: Sequence[Sequence[str]], given: Sequence[str], scores: NDArray[np.float64]) -> float:
    """The score above which an answer should be given, for the highest F1 of words; 0 where that is among the best.

    Args:
        given: what would be answered to each row, whatever its score.
        scores: how sure that is, (N,).

    >>> best_threshold([["fine"], [], ["warm"]], ["fine", "dull", "warm"], np.array([3.0, 1.0, 2.0]))
    1.5
    """
    order = np.argsort(-scores, kind="stable")
    gains = np.array(
        [
            max((token_f1(right, said) for right in row), default=0.0) - (not row)
            for row, said in zip(truth, given, strict=True)
        ]
    )
    totals = np.concatenate([[0.0], np.cumsum(gains[order])])  # what is gained by answering the first so many
    ordered = scores[order]
    possible = [k for k in range(len(ordered) + 1) if k in (0, len(ordered)) or ordered[k - 1] > ordered[k]]
    most = max(totals[k] for k in possible)
    zero = int((scores > 0).sum())
    if totals[zero] >= most:
        return 0.0
    k = next(k for k in possible if totals[k] >= most)
    above = ordered[k - 1] if k else ordered[0] + 2
    below = ordered[k] if k < len(ordered) else ordered[-1] - 2
    middle = float((above + below) / 2)
    return middle if middle < above else float(below)  # two neighbours among the floats have nothing between them


def words(text: str) -> list[str]:
    """The words that count.

    >>> words("The film's end: 北京 1998")
    ['films', 'end', '北', '京', '1998']
    """
    return [word for word in split(text) if word not in ARTICLES]


def split(text: str) -> list[str]:
    """All words, in lower case and without punctuation."""
    bare = "".join(c for c in unicodedata.normalize("NFKC", text).lower() if unicodedata.category(c)[0] not in "PS")
    return _WORD.findall(bare)


def token_f1(right: str, said: str) -> float:
    """Harmonic mean of precision and recall of words, each counted as often as it stands there.

    >>> token_f1("a bright film", "bright and warm")
    0.4
    """
    ours, theirs = Counter(words(said)), Counter(words(right))
    if not ours or not theirs:
        return float(ours == theirs)
    return 2 * (ours & theirs).total() / (ours.total() + theirs.total())
