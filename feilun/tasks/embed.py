"""A vector for a text: texts that belong together are near each other, so that the right ones are found by distance.

Contrastive: in a batch each text is to be nearer to its own document than to everybody else's (InfoNCE, van den Oord et
al. 2018, arXiv 1807.03748; for sentences Henderson et al. 2017, arXiv 1705.00652). What is known to be right for a text
is no wrong answer to it, in whatever row of the batch it stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from feilun.errors import DataError
from feilun.models import inference, tokens
from feilun.pipeline.kinds import Model
from feilun.tasks import matches, metrics_retrieval
from feilun.tasks.matches import Matches
from feilun.tasks.metrics import Metric
from feilun.tasks.options import TaskOptions
from feilun.tasks.task import Answered

if TYPE_CHECKING:  # torch is for learning: what answers is imported without it
    from torch import Tensor

    from feilun.models.network import Network

HEAD = "vector"
COLUMNS: tuple[str, ...] = ()  # ``other``, or ``label``: see ``matches.find``
READS = ("text",)
MAY_READ = ("candidates",)  # then they are put in order


@dataclass(frozen=True)
class Examples:
    """``chosen`` rows of ``pairs`` that have a right document; ids of all queries and documents."""

    pairs: Matches
    chosen: list[int]
    queries: list[list[int]]
    documents: list[list[int]]
    temperature: float
    together: ClassVar[bool] = True  # a text's loss depends on the others of its batch

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each query, its document, and its wrong one where it has one."""
        return [
            len(self.queries[row]) + sum(len(self.documents[i]) for i in [self.pairs.positive[row], *self.hard(row)])
            for row in self.chosen
        ]

    def hard(self, row: int) -> list[int]:
        """The first document that is known to be wrong for the row, if any."""
        return self.pairs.wrong[row][:1]


@dataclass(frozen=True)
class Vectors:
    """Of N texts, (N, H), and where there are any of D documents, (D, H); all of length 1."""

    texts: NDArray[np.float32]
    documents: NDArray[np.float32] | None


def labels(frame: pl.DataFrame) -> list[str]:
    """None: a vector has no labels."""
    return []


def examples(frame: pl.DataFrame, network: Network, options: TaskOptions) -> Examples:
    """Texts, what belongs to each, and what does not (the column ``rejected``), as ids.

    Raises:
        DataError: nothing says which texts belong together.
    """
    pairs = matches.find(frame)
    chosen = np.flatnonzero(pairs.positive >= 0).tolist()
    if not chosen:
        raise DataError("no row has a score above 0: there is nothing that belongs together", where="column score")
    queries, documents = (tokens.encode(network.tokenizer, texts) for texts in (pairs.queries, pairs.documents))
    return Examples(pairs, chosen, queries, documents, options.temperature)


def losses(network: Network, examples: Examples, chosen: Sequence[int]) -> Tensor:
    """Cross-entropy of each chosen text among the batch's documents, and of its document among the texts, (N,).

    The batch is the contrast: more rows (``batch_tokens``, ``batch_rows``) make it harder. Memory is that of the batch.
    """
    import torch

    from feilun.tasks import forward

    rows = [examples.chosen[i] for i in chosen]
    pairs = examples.pairs
    shown = [int(pairs.positive[row]) for row in rows] + [i for row in rows for i in examples.hard(row)]
    queries = _unit(forward.outputs(network, [examples.queries[row] for row in rows]))
    documents = _unit(forward.outputs(network, [examples.documents[i] for i in shown]))
    known = np.array([[i in pairs.right[row] for i in shown] for row in rows])
    np.fill_diagonal(known, False)
    with torch.autocast(queries.device.type, enabled=False):  # differences of 0.01 count, which bfloat16 does not have
        near = (queries @ documents.T) / examples.temperature
    near = near.masked_fill(torch.from_numpy(known).to(near.device), -torch.inf)
    own = torch.arange(len(rows), device=near.device)
    found = torch.nn.functional.cross_entropy(near, own, reduction="none")
    back = torch.nn.functional.cross_entropy(near[:, : len(rows)].T, own, reduction="none")
    return (found + back) / 2


def _unit(vectors: Tensor) -> Tensor:
    import torch

    return torch.nn.functional.normalize(vectors.float(), dim=-1)


def load(model: Model) -> inference.Engine:
    """The engine of the model's format."""
    return inference.load(model)


def answer(engine: inference.Engine, frame: pl.DataFrame) -> Answered:
    """The vector of each text, of length 1; or where it has ``candidates``, these with their cosines, best first.

    Where the rows have documents (``other``), these get vectors as well, in ``raw`` only: to be found among. All are
    asked of the engine at once: a gateway counts, and holds, what a question costs before it is worked on.
    """
    texts = frame["text"].to_list()
    documents = matches.documents(frame) if "other" in frame.columns else []
    candidates: list[list[str]] = frame["candidates"].to_list() if "candidates" in frame.columns else []
    shown = list(dict.fromkeys(text for row in candidates for text in row))  # one that stands in many rows counts once
    every = engine.run(engine.encode([*texts, *documents, *shown]))
    vectors, theirs, rest = np.split(every, [len(texts), len(texts) + len(documents)])
    raw = Vectors(vectors, theirs if "other" in frame.columns else None)
    if "candidates" in frame.columns:
        return Answered(_ranked(vectors, candidates, dict(zip(shown, rest, strict=True))), raw)
    return Answered([{"vector": row.tolist()} for row in vectors], raw)


def _ranked(
    vectors: NDArray[np.float32], candidates: list[list[str]], theirs: dict[str, NDArray[np.float32]]
) -> list[dict[str, object]]:
    """Each text's candidates in order; ``theirs`` is the vector of each of them."""
    said: list[dict[str, object]] = []
    for vector, row in zip(vectors, candidates, strict=True):
        near = np.array([theirs[text] @ vector for text in row], np.float32)
        order = np.argsort(-near, kind="stable")
        said.append({"ranking": [{"text": row[i], "score": float(near[i])} for i in order]})
    return said


def measure(frame: pl.DataFrame, answered: Answered, labels: Sequence[str]) -> list[Metric]:
    """How well each text finds its documents among all of these rows' (nDCG, reciprocal rank, hits, recall).

    Rows without ``other`` are to find the rows that have their label. A query that stands in several rows counts once.
    """
    pairs, vectors = matches.find(frame), answered.raw
    total = np.array([len(good) for good in pairs.right])
    if pairs.itself is None:
        found = metrics_retrieval.nearest(vectors.texts, vectors.documents)
    else:  # the documents are the texts, each once
        found = metrics_retrieval.nearest(vectors.texts, vectors.texts[pairs.first], pairs.itself)
        total -= 1
    gains = metrics_retrieval.gains(found, pairs.right)
    ideal = [np.ones(min(n, metrics_retrieval.DEPTH)) for n in total]
    return [
        *metrics_retrieval.figures(gains, ideal, counted=pairs.counted),
        metrics_retrieval.recall(gains, total, counted=pairs.counted),
    ]
