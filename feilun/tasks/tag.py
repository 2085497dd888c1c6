"""Names in a text: which characters, and what they name.

The network says for each piece of the text whether a span of some label begins there (``B-``), goes on (``I-``) or
neither (``O``), the scheme of Ramshaw and Marcus (1995). The pieces of a word decide together, and the best row of tags
that is possible becomes spans; only where the rows that were learned from have spans that end within words does each
piece decide for itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from feilun.errors import DataError
from feilun.models import inference
from feilun.pipeline.kinds import Model
from feilun.tasks import metrics_spans, windows, words
from feilun.tasks.metrics import Metric
from feilun.tasks.options import TaskOptions
from feilun.tasks.task import Answered, TokenRows

if TYPE_CHECKING:  # torch is for learning: what answers is imported without it
    from torch import Tensor

    from feilun.models.network import Network

HEAD = "tokens"
COLUMNS = ("spans",)
READS = ("text",)
OUTSIDE = "O"
CUT = 0.05  # a greater share of spans that end within words is meant so
UNTOLD = -100  # the tag of what has no loss: special tokens, and pieces that another window answers for

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Examples(TokenRows):
    """N windows of token ids, the number of each token's tag, and what is added to the C logits while training."""

    targets: list[NDArray[np.int64]]
    offset: Floats
    average: float  # pieces that count in a window
    smoothing: float = 0.0


def labels(frame: pl.DataFrame) -> list[str]:
    """The tags, sorted: ``O``, and two for each label of a span.

    Raises:
        DataError: no row has a span.
    """
    found = frame["spans"].explode().drop_nulls()
    if found.is_empty():
        hint = "check the column and the format of the source"
        raise DataError("to tag takes spans; the training rows have none", where="column spans", hint=hint)
    return sorted([OUTSIDE, *(f"{begin}-{label}" for label in found.struct.field("label").unique() for begin in "BI")])


def examples(frame: pl.DataFrame, network: Network, options: TaskOptions) -> Examples:
    """Windows over the texts with the tag of every piece; each piece counts once, in the window where it lies deepest.

    ``options.balance`` is as for classification, of tags: 1 finds more spans, and more that are none. What is learned
    from first decides whether answers are whole words (``network.decided``).

    Raises:
        DataError: two spans of a row overlap, or one is not within its text, or has a label the network does not have.
        SettingError: the context is too short.
    """
    number = {tag: i for i, tag in enumerate(network.labels)}
    pieces, cut = windows.cut(network.tokenizer, frame["text"].to_list())
    whole = [
        encode(piece, _checked(spans, text, row), number)
        for piece, spans, text, row in zip(pieces, frame["spans"].to_list(), frame["text"], frame["id"], strict=True)
    ]
    network.decided.setdefault("whole_words", _are_words(frame))
    targets = []
    for window in cut:
        row = np.full(len(window.ids), UNTOLD, np.int64)
        shift = window.at - window.first
        row[window.own.start + shift : window.own.stop + shift] = whole[window.row][window.own.start : window.own.stop]
        targets.append(row)
    told = np.concatenate([row[row != UNTOLD] for row in targets])
    counts = np.bincount(told, minlength=len(number)) + 1
    offset = (options.balance * np.log(counts / counts.sum())).astype(np.float32)
    return Examples([w.ids for w in cut], targets, offset, len(told) / len(cut), options.label_smoothing)


def losses(network: Network, examples: Examples, chosen: Sequence[int]) -> Tensor:
    """The sum of cross-entropies of each chosen window's pieces over an average window's pieces, (N,), float32.

    So every piece weighs the same, in whatever text it stands.
    """
    import torch

    from feilun.tasks import forward

    logits = forward.outputs(network, [examples.rows[i] for i in chosen])
    targets = np.full(logits.shape[:2], UNTOLD, np.int64)
    for i, row in enumerate(chosen):
        targets[i, : len(examples.targets[row])] = examples.targets[row]
    each = torch.nn.functional.cross_entropy(
        (logits + torch.from_numpy(examples.offset).to(logits.device)).flatten(0, 1),
        torch.from_numpy(targets).to(logits.device).flatten(),
        reduction="none",
        ignore_index=UNTOLD,
        label_smoothing=examples.smoothing,
    )
    return each.view(logits.shape[:2]).sum(1) / examples.average


def load(model: Model) -> inference.Engine:
    """The engine of the model's format."""
    return inference.load(model)


def answer(engine: inference.Engine, frame: pl.DataFrame) -> Answered:
    """The spans of each text, in order; ``score`` is how probable its words are part of such a span, on average.

    ``raw`` holds the probabilities of each text's pieces, (pieces, C).
    """
    texts = frame["text"].to_list()
    pieces, cut = windows.cut(engine.tokenizer, texts)
    parts: list[list[Floats]] = [[] for _ in texts]
    for window, scores in zip(cut, engine.outputs([w.ids for w in cut]), strict=True):
        shift = window.at - window.first
        parts[window.row].append(scores[window.own.start + shift : window.own.stop + shift])
    raw = [np.concatenate(found) for found in parts]
    whole = bool(engine.decided.get("whole_words", True))
    said = [
        {"spans": decode(text, piece, scores, engine.labels, whole=whole)}
        for text, piece, scores in zip(texts, pieces, raw, strict=True)
    ]
    return Answered(said, raw)


def measure(frame: pl.DataFrame, answered: Answered, labels: Sequence[str]) -> list[Metric]:
    """F1 of spans first, as seqeval counts it; see ``metrics_spans.of``."""
    truth = [[(s["start"], s["end"], s["label"]) for s in row] for row in frame["spans"].to_list()]
    found = [[(s["start"], s["end"], s["label"]) for s in row["spans"]] for row in answered.said]
    return metrics_spans.of(truth, found, sorted({tag[2:] for tag in labels if tag != OUTSIDE}))


def best(scores: Floats, tags: Sequence[str]) -> list[int]:
    """The most probable row of tags in which every ``I-`` goes on from its own label (Viterbi 1967).

    Args:
        scores: probabilities (L, C) of L pieces.
    """
    free: list[int] = scores.argmax(1).tolist()
    before = [OUTSIDE, *(tags[i] for i in free)]
    if all(_may(a, b) for a, b in itertools.pairwise(before)):
        return free  # the best of all rows is among the possible ones
    costs = -np.log(np.maximum(scores.astype(np.float64), 1e-30))
    steps = np.array([[0.0 if _may(a, b) else np.inf for b in tags] for a in tags])
    reached = costs[0] + [0.0 if _may(OUTSIDE, tag) else np.inf for tag in tags]
    came = []
    for cost in costs[1:]:
        every = reached[:, None] + steps
        came.append(every.argmin(0))
        reached = every.min(0) + cost
    path = [int(reached.argmin())]
    for back in reversed(came):
        path.append(int(back[path[-1]]))
    return path[::-1]


def decode(
    text: str, pieces: windows.Pieces, scores: Floats, tags: Sequence[str], *, whole: bool = True
) -> list[dict[str, Any]]:
    """The spans that the best row of tags says, in order, none over another; ``scores`` are (pieces, C).

    Args:
        whole: a span is whole words, each of which takes the mean of its pieces; else it may end with any piece.
    """
    there = [i for i, (start, end) in enumerate(zip(pieces.starts, pieces.ends, strict=True)) if start < end]
    spans: list[dict[str, Any]] = []
    if not there:
        return spans
    firsts = words.firsts(text, pieces, there) if whole else list(range(len(there)))
    each = by_word(scores[there], firsts, tags)
    for word, number in enumerate(best(each, tags)):
        tag, label = tags[number], tags[number][2:]
        group = there[firsts[word] : firsts[word + 1] if word + 1 < len(firsts) else None]
        start, end = pieces.starts[group[0]], pieces.ends[group[-1]]
        sure = float(sum(each[word, i] for i, other in enumerate(tags) if other != OUTSIDE and other[2:] == label))
        if tag.startswith("B-") and (not spans or start >= spans[-1]["end"]):
            spans.append({"start": start, "end": end, "label": label, "sure": [sure]})
        elif tag != OUTSIDE:  # a beginning within the last span is a second piece of one and the same character
            spans[-1] |= {"end": end, "sure": [*spans[-1]["sure"], sure]}
    said = []
    for span in spans:
        start, end = words.without_pictures(text, span["start"], span["end"]) if whole else (span["start"], span["end"])
        score = min(1.0, float(np.mean(span["sure"])))
        said.append({"start": start, "end": end, "label": span["label"], "score": score, "text": text[start:end]})
    return said


def by_word(scores: Floats, firsts: Sequence[int], tags: Sequence[str]) -> Floats:
    """Probabilities (words, C) from those of pieces, (pieces, C); ``firsts`` are the pieces at which words begin.

    Of each label a word has the mean of its pieces, whether they say ``B-`` or ``I-``; which of the two it is to be is
    said by its first piece. A word of one piece has that piece's probabilities.
    """
    if len(firsts) == len(scores):
        return scores
    sizes = np.diff([*firsts, len(scores)]).astype(np.float32)
    found: Floats = np.asarray(np.add.reduceat(scores, firsts, axis=0) / sizes[:, None], np.float32)
    first = scores[firsts]
    for begin, tag in enumerate(tags):
        if tag.startswith("B-"):
            within = list(tags).index(f"I-{tag[2:]}")
            mass = found[:, begin] + found[:, within]
            both = np.maximum(first[:, begin] + first[:, within], 1e-30)
            found[:, begin] = mass * first[:, begin] / both
            found[:, within] = mass - found[:, begin]
    return found


def encode(pieces: windows.Pieces, spans: list[dict[str, Any]], number: dict[str, int]) -> NDArray[np.int64]:
    """The number of each piece's tag; white space between pieces is not told."""
    found = np.full(len(pieces.ids), number[OUTSIDE], np.int64)
    starts, ends = np.array(pieces.starts), np.array(pieces.ends)
    found[starts == ends] = UNTOLD
    for span in spans:
        tag = f"B-{span['label']}"
        if tag not in number:
            raise DataError(f"the model does not know the label '{span['label']}'", where="column spans")
        inside = np.flatnonzero((starts < span["end"]) & (ends > span["start"]) & (starts < ends))
        inside = inside[found[inside] == number[OUTSIDE]]  # a piece of two spans is the first one's
        found[inside] = number[f"I-{span['label']}"]
        found[inside[:1]] = number[tag]
    return found


def _are_words(frame: pl.DataFrame) -> bool:
    """Whether spans are whole words, but for a few."""
    places = [
        (text, s["start"], s["end"])
        for text, spans in zip(frame["text"], frame["spans"].to_list(), strict=True)
        for s in spans
    ]
    cut = sum(words.whole(*place) != place[1:] for place in places)
    return cut <= CUT * len(places)


def _may(before: str, tag: str) -> bool:
    return not tag.startswith("I-") or (before != OUTSIDE and before[2:] == tag[2:])


def _checked(spans: list[dict[str, Any]], text: str, row: str) -> list[dict[str, Any]]:
    """The spans in order."""
    ordered = sorted(spans, key=lambda span: (span["start"], span["end"]))
    end = 0
    for span in ordered:
        if not 0 <= span["start"] < span["end"] <= len(text):
            what = f"a span from {span['start']} to {span['end']} is not within its text of {len(text)} characters"
            raise DataError(what, where=f"row {row}, column spans")
        if span["start"] < end:
            hint = "a piece of text has one tag: keep one of the two, or tune a model for each"
            raise DataError("two spans overlap", where=f"row {row}, column spans", hint=hint)
        end = span["end"]
    return ordered
