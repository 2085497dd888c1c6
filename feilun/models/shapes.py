"""What kinds of heads there are; without torch, for those who only answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Shape:
    """What kind of head: one output for a text or one for each of its tokens, and what a score is.

    ``outputs`` is how many numbers an output has; 0 means as many as there are labels.
    """

    pooled: bool
    scores: Literal["softmax", "sigmoid", "plain", "unit"]
    outputs: int = 0


SHAPES = {
    "label": Shape(pooled=True, scores="softmax"),  # exactly one label
    "labels": Shape(pooled=True, scores="sigmoid"),  # any of the labels
    "number": Shape(pooled=True, scores="plain", outputs=1),
    "vector": Shape(pooled=True, scores="unit"),  # the mean itself, of length 1; nothing to train in the head
    "tokens": Shape(pooled=False, scores="softmax"),  # a label for each token
    "ends": Shape(pooled=False, scores="plain", outputs=2),  # how likely an answer starts, ends at each token
}
