"""More texts to learn from: those that are there with words dropped, exchanged or replaced.

Deletion and swaps as in EDA (Wei and Zou 2019, arXiv 1901.11196). Synonyms come from the training texts themselves: the
words nearest to one in the base's embeddings; a word without near ones is left, and another is tried. Names in a text
stay as they are, and move with the words before them.
"""

from __future__ import annotations

import random
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from feilun.datasets.positions import key
from feilun.finetune.augment_options import AugmentOptions

Edit = tuple[int, int, str]  # characters start to end (excluded) become this
Neighbours = Mapping[str, Sequence[str]]
# a Chinese or Japanese character is a word here, for nothing says where one ends
WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+(?:['’-]\w+)*"
)
KNOWN = 20_000  # the most frequent words that may replace others
NEAREST = 5  # of which one is drawn
LEAST = 0.5  # cosine: what is further away means something else


def more(
    frame: pl.DataFrame,
    options: AugmentOptions,
    seed: int,
    neighbours: Neighbours,
    paraphrases: Callable[[Sequence[str]], list[str]] | None = None,
) -> pl.DataFrame:
    """Altered copies of a dataset's rows; a row's copies depend on it and the seed alone.

    Args:
        frame: N rows of the training split.
        options: the ways, and how much.
        seed: of the draws.
        neighbours: for each word those near it, see ``nearest``.
        paraphrases: other words for each text; needed where a way is "paraphrase".

    Returns:
        At most N times ``augment_copies`` rows with ids of their own; a copy that came out as it was is left out.
    """
    rows = frame.to_dicts()
    made: list[dict[str, Any]] = []
    for copy in range(options.augment_copies):
        way = options.augment[copy % len(options.augment)]
        if way == "paraphrase" and paraphrases is not None:
            texts = paraphrases([row["text"] for row in rows])
            changed = [{**row, "text": text} for row, text in zip(rows, texts, strict=True)]
        else:
            changed = [_altered(row, way, options.augment_share, f"{seed} {way} {copy}", neighbours) for row in rows]
        made += [
            {**new, "id": f"{new['id']}-{way}-{copy}"}
            for new, row in zip(changed, rows, strict=True)
            if new["text"] and key(new["text"]) != key(row["text"])
        ]
    return pl.DataFrame(made, schema=frame.schema)


def edit(text: str, spans: Sequence[dict[str, Any]], edits: Sequence[Edit]) -> tuple[str, list[dict[str, Any]]]:
    """A text with edits made, none of which touches a span or another edit, and the spans where they are then.

    >>> edit("the old city of Lima", [{"start": 16, "end": 20, "label": "place"}], [(4, 8, ""), (13, 15, "called")])
    ('the city called Lima', [{'start': 16, 'end': 20, 'label': 'place'}])
    """
    parts, end, moves = [], 0, []
    for start, stop, new in sorted(edits):
        parts += [text[end:start], new]
        moves.append((start, len(new) - (stop - start)))
        end = stop
    shifted = []
    for span in spans:
        by = sum(change for start, change in moves if start < span["start"])
        shifted.append({**span, "start": span["start"] + by, "end": span["end"] + by})
    return "".join([*parts, text[end:]]), shifted


def nearest(texts: Sequence[str], vectors: Callable[[Sequence[str]], Any]) -> dict[str, list[str]]:
    """For each frequent word of the texts the words nearest to it, at most ``NEAREST``, the nearest first.

    Args:
        texts: what is learned from.
        vectors: from words to (W, H), such as ``embedded`` gives them.
    """
    import numpy as np

    counts = Counter(word.lower() for text in texts for word in WORD.findall(text))
    words = sorted((w for w, n in counts.most_common(KNOWN) if n > 1 and w.isalpha() and len(w) > 2), key=str)
    if len(words) < 2:
        return {}
    points = vectors(words)
    points = points - points.mean(0)  # what all words share says nothing of any
    points /= np.linalg.norm(points, axis=1, keepdims=True) + 1e-9
    found: dict[str, list[str]] = {}
    for start in range(0, len(words), 512):
        near = points[start : start + 512] @ points.T
        near[np.arange(len(near)), np.arange(start, start + len(near))] = -1
        most = np.argsort(-near, axis=1)[:, :NEAREST]
        for row, places in enumerate(most):
            close = [words[p] for p in places if near[row, p] >= LEAST]
            if close:
                found[words[start + row]] = close
    return found


def embedded(network: Any) -> Callable[[Sequence[str]], Any]:
    """Vectors of words: the mean of the input embeddings of each word's pieces, (W, H)."""
    import numpy as np

    table = network.encoder.get_input_embeddings().weight.detach().float().numpy()

    def vectors(words: Sequence[str]) -> Any:
        encoded = network.tokenizer.encode_batch_fast(list(words), add_special_tokens=False)
        return np.stack([table[e.ids].mean(0) if e.ids else np.zeros(table.shape[1], table.dtype) for e in encoded])

    return vectors


def _altered(row: dict[str, Any], way: str, share: float, draw: str, neighbours: Neighbours) -> dict[str, Any]:
    chance = random.Random(zlib.crc32(f"{draw} {row['id']}".encode()))  # noqa: S311 - nothing secret
    text, spans = row["text"], row.get("spans") or []
    words = [
        word
        for word in WORD.finditer(text)
        if not any(word.start() < span["end"] and span["start"] < word.end() for span in spans)
    ]
    wanted = max(1, round(share * len(words)))
    edits = list(_WAYS[way](text, words, wanted, chance, neighbours))
    new, moved = edit(text, spans, edits)
    return {**row, "text": new, **({"spans": moved} if "spans" in row else {})}


def _delete(
    text: str, words: Sequence[re.Match[str]], wanted: int, chance: random.Random, neighbours: Neighbours
) -> Iterator[Edit]:
    if len(words) < 2:
        return
    for word in chance.sample(words, min(wanted, len(words) - 1)):
        start, end = word.span()
        gap = text[end : end + 1] == " " and (start == 0 or text[start - 1] == " ")
        yield start, end + gap, ""


def _swap(
    text: str, words: Sequence[re.Match[str]], wanted: int, chance: random.Random, neighbours: Neighbours
) -> Iterator[Edit]:
    taken: set[int] = set()
    for place in chance.sample(range(len(words) - 1), max(0, len(words) - 1)):
        one, two = words[place], words[place + 1]
        if {place, place + 1} & taken or text[one.end() : two.start()].strip():
            continue  # words on two sides of a comma or a name are no neighbours
        taken |= {place, place + 1}
        yield one.start(), two.end(), two[0] + text[one.end() : two.start()] + one[0]
        if len(taken) >= 2 * wanted:
            return


def _synonyms(
    text: str, words: Sequence[re.Match[str]], wanted: int, chance: random.Random, neighbours: Neighbours
) -> Iterator[Edit]:
    able = [word for word in words if word[0].lower() in neighbours]
    for word in chance.sample(able, min(wanted, len(able))):
        new = chance.choice(neighbours[word[0].lower()])
        yield word.start(), word.end(), new.capitalize() if word[0][0].isupper() else new


_WAYS = {"delete": _delete, "swap": _swap, "synonyms": _synonyms}
