"""The order of candidates for a text: each is read together with it by one encoder (a cross-encoder).

It learns from the same rows as ``embed``: the right document of each text is to score above some wrong ones, half of
them the nearest by words, half at random (localised contrast: Gao et al. 2021, arXiv 2101.08751). What is known to be
right for a text is never a wrong one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from feilun.errors import DataError
from feilun.models import inference, tokens
from feilun.pipeline.kinds import Model
from feilun.tasks import matches, metrics_retrieval
from feilun.tasks.matches import Matches
from feilun.tasks.metrics import Ints, Metric
from feilun.tasks.options import TaskOptions
from feilun.tasks.task import Answered

if TYPE_CHECKING:  # torch is for learning: what answers is imported without it
    from torch import Tensor

    from feilun.models.network import Network

HEAD = "number"
COLUMNS: tuple[str, ...] = ()  # ``other``, or ``label``: see ``matches.find``
READS = ("text", "candidates")
NEAR = 20  # wrong documents are drawn from so many of the nearest
CANDIDATES = 10  # that a row of a dataset is answered with: what is right for it, and the nearest that is not


@dataclass(frozen=True)
class Examples:
    """``shown[i]``: the documents that the ``chosen[i]``-th query is read with, the right one first."""

    pairs: Matches
    chosen: list[int]
    shown: list[list[int]]
    tokens: list[int]

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def lengths(self) -> list[int]:
        """Tokens of all pairs of each row."""
        return self.tokens


def labels(frame: pl.DataFrame) -> list[str]:
    """None: an order has no labels."""
    return []


def examples(frame: pl.DataFrame, network: Network, options: TaskOptions) -> Examples:
    """Texts, what belongs to each, and ``options.negatives`` wrong documents; the same ones in every epoch.

    Known wrong ones (``rejected``, or a ``score`` of 0) come first. Pairs are encoded when they are learned from: the
    ids of all would take much memory.

    Raises:
        DataError: nothing says which texts belong together, or there is nothing wrong to compare with.
    """
    from feilun.tasks import nearby

    pairs = matches.find(frame)
    chosen = np.flatnonzero(pairs.positive >= 0).tolist()
    queries, documents = (tokens.encode(network.tokenizer, texts) for texts in (pairs.queries, pairs.documents))
    near = nearby.wrong(queries, documents, pairs.right, NEAR)
    shown = [[int(pairs.positive[row]), *_wrong(pairs, row, near[row], options.negatives)] for row in chosen]
    if not any(len(row) > 1 for row in shown):
        raise DataError("no row has a wrong document that its right one could be compared with", where="column other")
    context = tokens.context_of(network.tokenizer)
    lengths = [
        sum(min(context, len(queries[row]) + len(documents[i])) for i in one)
        for row, one in zip(chosen, shown, strict=True)
    ]
    return Examples(pairs, chosen, shown, lengths)


def _wrong(pairs: Matches, row: int, near: Ints, most: int) -> list[int]:
    """Known ones, then near ones, then any; none twice, none that is right. The row's number is the seed."""
    random = np.random.default_rng(row)
    known = pairs.wrong[row][:most]
    close = random.permutation(near)[: (most - len(known) + 1) // 2].tolist()
    found = dict.fromkeys([*known, *close])
    for other in random.integers(len(pairs.documents), size=4 * most).tolist():
        if len(found) == most:
            break
        if other not in pairs.right[row]:
            found[other] = None
    return list(found)


def losses(network: Network, examples: Examples, chosen: Sequence[int]) -> Tensor:
    """Cross-entropy of each chosen text's right document among those that are shown with it, (N,), float32."""
    import torch

    from feilun.tasks import forward

    sizes = [len(examples.shown[i]) for i in chosen]
    asked = [(examples.pairs.queries[examples.chosen[i]], examples.shown[i]) for i in chosen]
    rows = tokens.encode_pairs(
        network.tokenizer,
        [query for query, shown in asked for _ in shown],
        [examples.pairs.documents[number] for _, shown in asked for number in shown],
    )
    scores = torch.split(forward.outputs(network, rows)[:, 0], sizes)
    table = torch.nn.utils.rnn.pad_sequence(list(scores), batch_first=True, padding_value=-torch.inf)
    return -table.log_softmax(1)[:, 0]


def load(model: Model) -> inference.Engine:
    """The engine of the model's format."""
    return inference.load(model)


def answer(engine: inference.Engine, frame: pl.DataFrame) -> Answered:
    """Each text's candidates with their scores, best first; ``raw`` has their texts and scores in the order asked.

    The candidates of a text are those of the column ``candidates``, a list of texts. The rows of a dataset have none:
    there they are what is right for the text, what is known to be wrong and, where no column ``score`` judged them, the
    nearest of all rows' documents.
    """
    if "candidates" in frame.columns:
        candidates: list[list[str]] = frame["candidates"].to_list()
    else:
        candidates = _candidates(engine, frame)
    queries = frame["text"].to_list()
    rows = tokens.encode_pairs(
        engine.tokenizer,
        [query for query, shown in zip(queries, candidates, strict=True) for _ in shown],
        [text for shown in candidates for text in shown],
    )
    flat = engine.run(rows)[:, :1].reshape(-1)
    scores = np.split(flat, np.cumsum([len(shown) for shown in candidates])[:-1]) if candidates else []
    said = []
    for shown, found in zip(candidates, scores, strict=True):
        order = np.argsort(-found, kind="stable")
        said.append({"ranking": [{"text": shown[i], "score": float(found[i])} for i in order]})
    return Answered(said, list(zip(candidates, scores, strict=True)))


def _candidates(engine: inference.Engine, frame: pl.DataFrame) -> list[list[str]]:
    from feilun.tasks import nearby

    pairs = matches.find(frame)
    near = nearby.wrong(engine.encode(pairs.queries), engine.encode(pairs.documents), pairs.right, CANDIDATES)
    found = []
    for row, close in enumerate(near):
        right = [int(pairs.positive[row])] if pairs.itself is not None else sorted(pairs.right[row])
        known = dict.fromkeys([*right, *pairs.wrong[row]])
        more = 0 if "score" in frame.columns else max(0, CANDIDATES - len(known))
        shown = [*known, *[i for i in close.tolist() if i not in known][:more]]
        found.append([pairs.documents[i] for i in shown])
    return found


def measure(frame: pl.DataFrame, answered: Answered, labels: Sequence[str]) -> list[Metric]:
    """How high the right candidates stand (nDCG, reciprocal rank, hits); a text of several rows counts once.

    With a column ``score`` that is how much a right one gains; else each gains 1.
    """
    pairs = matches.find(frame)
    gain: dict[tuple[str, str], float] = {}
    if "score" in frame.columns and "other" in frame.columns:
        gain = {(q, d): max(0.0, s) for q, d, s in frame.select("text", "other", "score").iter_rows()}
    number = {text: i for i, text in enumerate(pairs.documents)}
    found, ideal = [], []
    for query, right, (shown, scores) in zip(pairs.queries, pairs.right, answered.raw, strict=True):
        gains = np.array([gain.get((query, text), 1.0) if number.get(text) in right else 0.0 for text in shown])
        found.append(gains[np.lexsort((gains, -scores))])  # of equal scores the wrong one counts as first
        ideal.append(gains)
    return metrics_retrieval.figures(found, ideal, counted=pairs.counted)
