"""What a causal model answers to its probes, token by token: the fingerprint of one that was loaded right.

Other processors round otherwise, so two tokens that are as good as each other may change places, and what follows them
is another answer. Up to there the tokens are the same, with the same probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from feilun.models.decoder import Decoder, Manner, written

TOKENS = 12  # of each answer
DIGITS = 6  # of a probability
_FAR = float("inf")


def probe(decoder: Decoder, texts: Sequence[str]) -> list[dict[str, Any]]:
    """Greedy answers to what a user might say; each token with its probability."""
    prompts = [decoder.prompt([{"role": "user", "content": text}]) for text in texts]
    found = []
    for text, pieces in zip(texts, written(decoder, prompts, Manner(most=TOKENS, logprobs=0)), strict=True):
        chances = [chance for piece in pieces for chance in piece.chances]
        found.append({"text": text, "tokens": [[c.token, round(math.exp(c.logprob), DIGITS)] for c in chances]})
    return found


def distance(now: dict[str, Any], then: dict[str, Any], tolerance: float) -> float:
    """The largest change of a probability, up to a tie that fell the other way; infinite for another answer.

    >>> then = {"tokens": [["a", 0.9], ["b", 0.41], ["c", 0.3]]}
    >>> distance({"tokens": [["a", 0.89], ["d", 0.42], ["e", 0.9]]}, then, 0.02)
    0.01
    >>> distance({"tokens": [["a", 0.89], ["d", 0.9]]}, then, 0.02)
    inf
    """
    worst = 0.0
    for (token, chance), (other, before) in zip(now["tokens"], then["tokens"], strict=False):
        moved = round(abs(chance - before), DIGITS)
        if token == other:
            worst = max(worst, moved)
        elif moved <= tolerance and max(chance, before) <= 0.5 + tolerance:  # of two that tie, none is likelier
            return worst
        else:
            return _FAR
    return worst if len(now["tokens"]) == len(then["tokens"]) else _FAR
