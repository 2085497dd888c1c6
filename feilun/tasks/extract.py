"""A question's answer as the words of a second text, where they stand; or that it has none.

``text`` is the question, ``other`` is what it is asked of. The network says for each piece of ``other`` how likely an
answer starts and ends there, and for the first token that there is none: SQuAD's second form as BERT learned it (Devlin
et al. 2019, section 4.3). Both texts stand in one row of ids, told apart by what the tokenizer puts between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from feilun.errors import DataError
from feilun.models import inference
from feilun.pipeline.kinds import Model
from feilun.tasks import metrics_answers, windows
from feilun.tasks.metrics import Metric
from feilun.tasks.options import TaskOptions
from feilun.tasks.task import Answered, TokenRows

if TYPE_CHECKING:  # torch is for learning: what answers is imported without it
    from torch import Tensor

    from feilun.models.network import Network

HEAD = "ends"
COLUMNS = ("other", "answers")
READS = ("text", "other")
LONGEST = 64  # pieces of an answer
NONE = 0  # the token that stands for "no answer here"
OUT_OF_REACH = -1e4  # the logit of a token at which no answer can start or end


@dataclass(frozen=True)
class Examples(TokenRows):
    """N windows of token ids; ``targets`` are the tokens where the answer starts and ends, (N, 2), or ``NONE``.

    ``places`` are the first token of ``other`` in each window and the one behind its last.
    """

    places: list[tuple[int, int]]
    targets: NDArray[np.int64]


def labels(frame: pl.DataFrame) -> list[str]:
    """None: the answers are places.

    Raises:
        DataError: no row has an answer.
    """
    if frame["answers"].list.len().sum() == 0:
        hint = "check the column and the format of the source"
        raise DataError("to extract takes answers; the training rows have none", where="column answers", hint=hint)
    return []


def examples(frame: pl.DataFrame, network: Network, options: TaskOptions) -> Examples:
    """Windows over the second texts; one that does not hold the whole of the row's first answer has none.

    Raises:
        DataError: an answer does not stand where it is said to.
        SettingError: the context is too short.
    """
    texts = frame["other"].to_list()
    pieces, cut = windows.cut(network.tokenizer, texts, frame["text"].to_list())
    asked = zip(pieces, frame["answers"].to_list(), texts, frame["id"], strict=True)
    ends = [_place(piece, _checked(answers, text, row)) for piece, answers, text, row in asked]
    targets = np.full((len(cut), 2), NONE, np.int64)
    for i, window in enumerate(cut):
        place = ends[window.row]
        if place and window.first <= place[0] and place[1] < window.first + window.size:
            targets[i] = np.array(place) + window.at - window.first
    return Examples([w.ids for w in cut], [(w.at, w.at + w.size) for w in cut], targets)


def losses(network: Network, examples: Examples, chosen: Sequence[int]) -> Tensor:
    """The mean of the start's and the end's cross-entropy among the tokens where they can be, (N,), float32."""
    import torch

    from feilun.tasks import forward

    logits = forward.outputs(network, [examples.rows[i] for i in chosen])
    closed = np.ones((*logits.shape[:2], 1), np.bool_)
    for i, row in enumerate(chosen):
        first, last = examples.places[row]
        closed[i, first:last] = False
    closed[:, NONE] = False
    logits = logits.masked_fill(torch.from_numpy(closed).to(logits.device), OUT_OF_REACH)
    targets = torch.from_numpy(examples.targets[chosen]).to(logits.device)
    return torch.nn.functional.cross_entropy(logits, targets, reduction="none").mean(1)


def load(model: Model) -> inference.Engine:
    """The engine of the model's format."""
    return inference.load(model)


def decide(network: Network, held_out: pl.DataFrame, options: TaskOptions) -> dict[str, Any]:
    """How far an answer's logits must be above those of "none" to be given.

    Without rows that were not learned from, 0; else what gives the highest F1 of words on them, as SQuAD 2.0 chooses.
    """
    from feilun.models.network import Answering

    if held_out.is_empty():
        return {}
    places, lead = _found(Answering(network), held_out)
    truth = [[answer["text"] for answer in row] for row in held_out["answers"].to_list()]
    given = [text[slice(*place)] for text, place in zip(held_out["other"], places, strict=True)]
    return {"least": metrics_answers.best_threshold(truth, given, lead)}


def answer(engine: inference.Engine, frame: pl.DataFrame) -> Answered:
    """Each question's best answer over all windows: its words and where they start and end, in characters of ``other``.

    ``score`` is how probable it is that there is one: the answer is empty and has no place up to 0.5. ``raw`` is the
    logit of that, (N,).
    """
    places, lead = _found(engine, frame)
    lead -= float(engine.decided.get("least", 0.0))
    return Answered([_said(*row) for row in zip(frame["other"], places, lead.tolist(), strict=True)], lead)


def measure(frame: pl.DataFrame, answered: Answered, labels: Sequence[str]) -> list[Metric]:
    """F1 of words first, then exact matches, as SQuAD counts them; see ``metrics_answers.of``."""
    truth = [[answer["text"] for answer in row] for row in frame["answers"].to_list()]
    return metrics_answers.of(truth, [said["answer"] for said in answered.said])


def best(logits: NDArray[np.float64]) -> tuple[int, int, float]:
    """Start, end (the last piece) and the sum of both logits, from (L, 2); at most ``LONGEST`` pieces.

    >>> best(np.array([[0.0, 9.0], [5.0, 0.0], [0.0, 3.0]]))
    (0, 0, 9.0)
    """
    starts, ends = logits[:, 0], logits[:, 1]
    found = (0, 0, -np.inf)
    for length in range(min(LONGEST, len(logits))):
        sums = starts[: len(starts) - length] + ends[length:]
        start = int(sums.argmax())
        if sums[start] > found[2]:
            found = (start, start + length, float(sums[start]))
    return found


def _found(engine: inference.Engine, frame: pl.DataFrame) -> tuple[list[tuple[int, int]], NDArray[np.float64]]:
    """Where the best answer to each question starts and ends, and how far its logits are above those of none, (N,)."""
    texts = frame["other"].to_list()
    pieces, cut = windows.cut(engine.tokenizer, texts, frame["text"].to_list())
    lead = np.full(len(texts), OUT_OF_REACH)  # an empty text has no answer
    places: list[tuple[int, int]] = [(0, 0)] * len(texts)
    for window, logits in zip(cut, engine.outputs([w.ids for w in cut]), strict=True):
        if not window.size:
            continue
        start, end, score = best(logits[window.at : window.at + window.size].astype(np.float64))
        over = score - float(logits[NONE].sum())  # logits of two windows compare only beside each one's "none"
        if over > lead[window.row]:
            lead[window.row] = over
            piece = pieces[window.row]
            places[window.row] = (piece.starts[window.first + start], piece.ends[window.first + end])
    return places, lead


def _said(text: str, place: tuple[int, int], lead: float) -> dict[str, Any]:
    score = float(1 / (1 + np.exp(-max(lead, -500.0))))
    if lead <= 0 or place[0] >= place[1]:
        return {"answer": "", "start": None, "end": None, "score": score}
    return {"answer": text[slice(*place)], "start": place[0], "end": place[1], "score": score}


def _checked(answers: list[dict[str, Any]], text: str, row: str) -> list[dict[str, Any]]:
    for answer in answers:
        start, words = answer["start"], answer["text"]
        if start < 0 or not words or text[start : start + len(words)] != words:
            what = f"the answer '{words[:40]}' does not stand at character {start}"
            hint = "an answer is given by its words and where they start in the second text, in characters"
            raise DataError(what, where=f"row {row}, column answers", hint=hint)
    return answers


def _place(pieces: windows.Pieces, answers: list[dict[str, Any]]) -> tuple[int, int] | None:
    """The first and the last piece of the first answer."""
    if not answers:
        return None
    first, last = answers[0]["start"], answers[0]["start"] + len(answers[0]["text"])
    starts, ends = np.array(pieces.starts), np.array(pieces.ends)
    inside = np.flatnonzero((starts < last) & (ends > first) & (starts < ends))
    return (int(inside[0]), int(inside[-1])) if len(inside) else None
