"""The next token of an answer from its logits: one way for every engine that shows them.

Plain numpy, for one row of logits at a time: greedy costs a pass over the vocabulary, and nothing is ever sorted whole
unless the likeliest thousand tokens do not hold ``top_p``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from feilun.models.answers import Form, Wrote
from feilun.models.decoder import Manner

Row = NDArray[np.float32]
LIKELY = 1024  # tokens that are looked at first
FITTING = 64  # of the likeliest tokens that fit a form, from which one is drawn
ABILITIES = frozenset(["penalties", "logprobs", "top_logprobs", "schema"])  # of an engine that chooses so


class Choosing:
    """How the tokens of one answer are chosen; the same logits and seed give the same answer."""

    def __init__(self, manner: Manner, form: Form | None = None) -> None:
        self.manner = manner
        self.form = form
        self._random = np.random.default_rng(manner.seed)
        self._counts: dict[int, int] = {}
        self._penalises = bool(manner.frequency_penalty or manner.presence_penalty)

    def choose(self, logits: Row) -> Wrote:
        """One token. Its probability is told as the model has it: before penalties, temperature and form.

        Args:
            logits: (V,), not changed.
        """
        token = self._token(self._penalised(logits) if self._penalises and self._counts else logits)
        if self._penalises:
            self._counts[token] = self._counts.get(token, 0) + 1
        if self.form is not None:
            self.form.add(token)
        return Wrote(token) if self.manner.logprobs is None else told(logits, token, self.manner.logprobs)

    def _penalised(self, logits: Row) -> Row:
        lower = logits.copy()
        for token, count in self._counts.items():
            lower[token] -= self.manner.frequency_penalty * count + self.manner.presence_penalty
        return lower

    def _token(self, logits: Row) -> int:
        if self.form is not None:
            tokens = _fitting(logits, self.form, FITTING if self.manner.temperature else 1)
            return tokens[0] if not self.manner.temperature else tokens[self._drawn(logits[tokens])]
        return self._drawn(logits) if self.manner.temperature else int(logits.argmax())

    def _drawn(self, logits: Row) -> int:
        """From the likeliest tokens that have ``top_p`` of the probability together, the last of them included."""
        warm = logits.astype(np.float64) / self.manner.temperature
        chances = np.exp(warm - warm.max())
        chances /= chances.sum()
        if self.manner.top_p >= 1:
            return _at(chances, self._random.random())
        order = _likeliest(chances, LIKELY)
        if chances[order].sum() < self.manner.top_p:
            order = np.argsort(-chances, kind="stable")
        kept = chances[order]
        kept = kept[np.cumsum(kept) - kept < self.manner.top_p]
        return int(order[_at(kept / kept.sum(), self._random.random())])


def told(logits: Row, token: int, top: int) -> Wrote:
    """A token with its log-probability and those of the ``top`` likeliest."""
    wide = logits.astype(np.float64)
    highest = float(wide.max())
    total = highest + float(np.log(np.exp(wide - highest).sum()))
    beside = _likeliest(wide, top)[:top] if top else ()
    return Wrote(token, float(wide[token]) - total, tuple((int(i), float(wide[i]) - total) for i in beside))


def _likeliest(values: NDArray[np.float64], count: int) -> NDArray[np.intp]:
    """The numbers of the highest values, highest first; of equals the first."""
    less = count < len(values)
    chosen = np.sort(np.argpartition(-values, count)[:count]) if less else np.arange(len(values))
    return chosen[np.argsort(-values[chosen], kind="stable")]


def _at(chances: NDArray[np.float64], point: float) -> int:
    """Where a point from 0 to 1 falls among chances that sum to 1."""
    return min(int(np.searchsorted(np.cumsum(chances), point, side="right")), int(np.flatnonzero(chances)[-1]))


def _fitting(logits: Row, form: Form, enough: int) -> Sequence[int]:
    """The tokens that fit, likeliest first: of the likeliest thousand that may, of all where none of them does."""
    may = np.flatnonzero(form.possible())
    wide = logits[may].astype(np.float64)
    for count in (LIKELY, len(wide)):
        found: list[int] = []
        for token in may[_likeliest(wide, count)].tolist():
            if form.fits(token):
                found.append(token)
                if len(found) == enough:
                    break
        if found:
            return found
    raise ValueError("no token fits the form of the answer")  # a form always lets an answer go on, or end
