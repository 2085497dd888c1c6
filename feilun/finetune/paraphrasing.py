"""Texts in other words, by a causal language model on this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from feilun.datasets.positions import key

ASKS = "Say this in other words, with the same meaning. Answer with one rewritten text and nothing else.\n\n{text}"
HEAT = 0.7  # of the sampling: at 0 the model repeats what it read
TOP = 0.9
LENGTHS = (0.4, 2.5)  # a rewritten text is about as long as the text


def load(folder: Path, seed: int) -> Callable[[Sequence[str]], list[str]]:
    """What rewrites texts; "" for one that the model did not rewrite but repeated, cut off or talked about.

    Args:
        folder: a causal language model in the Hugging Face layout, or in GGUF.
        seed: of the sampling.

    Raises:
        ArtifactError: there is no such model, or it is damaged.
    """
    from feilun.models import causal
    from feilun.models.decoding import Writing

    network = causal.load(folder)
    network.decided = {"answer_tokens": 96, "sampling": HEAT, "top_p": TOP}

    def rewritten(texts: Sequence[str]) -> list[str]:
        asked = [[{"role": "user", "content": ASKS.format(text=text)}] for text in texts]
        said = Writing(network, seed).answers(asked)
        return [taken(answer, text) for answer, text in zip(said, texts, strict=True)]

    return rewritten


def taken(answer: str, text: str) -> str:
    """The answer's first line without quotation marks, or "" where that is no other wording of the text.

    >>> taken('"The film was a bore."\\nIs that right?', "A boring film."), taken("A boring film.", "A boring  film.")
    ('The film was a bore.', '')
    """
    line = next((part.strip() for part in answer.split("\n") if part.strip()), "").strip("\"'“”")
    fits = LENGTHS[0] <= len(line) / max(1, len(text)) <= LENGTHS[1]
    about = any(word in key(line) for word in ("rewritten", "in other words", "same meaning"))
    return line if fits and not about and key(line) != key(text) else ""
