"""One way to ask a model, whatever its format is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from feilun.errors import ArtifactError
from feilun.models import tokens
from feilun.pipeline.kinds import Model


class Engine(Protocol):
    """What answers: ``head`` says what a score is (``feilun.models.shapes.SHAPES``), ``labels`` name the columns of the
    scores where they are labels, ``context`` is the most tokens read of a text, ``decided`` what the task chose after
    the training, for its answers (a threshold, say)."""

    head: str
    labels: tuple[str, ...]
    context: int
    tokenizer: Tokenizer
    decided: dict[str, Any]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text."""

    def run(self, rows: tokens.Rows) -> NDArray[np.float32]:
        """Scores (N, C) of N rows of ids, of a head that answers once for a text."""

    def outputs(self, rows: tokens.Rows) -> list[NDArray[np.float32]]:
        """Each row's scores: (C,), or (its tokens, C) where the head answers for each token."""


@dataclass(frozen=True)
class Predictions:
    """``labels``: the best label of each of N texts; ``scores``: (N, C), columns named by ``classes``."""

    labels: list[str]
    scores: NDArray[np.float32]
    classes: tuple[str, ...]


def load(model: Model, *, threads: int = 2) -> Engine:
    """The engine for the model's format.

    Raises:
        ArtifactError: the files cannot be read, the format is unknown, or the model has no head yet.
    """
    if model.facts.get("format") == "openvino":
        from feilun.models import openvino

        engine: Engine = openvino.load(model.path, threads=threads)
    elif model.facts.get("format") == "adapter":
        from feilun.models import shared

        engine = shared.Bases(threads=threads).open(model)
    elif model.facts.get("format") == "safetensors":
        from feilun.models import network

        engine = network.Answering(network.load(model.path))
    else:
        raise ArtifactError(f"models of format '{model.facts.get('format')}' cannot be run", where=str(model.path))
    if engine.head == "label" and len(engine.labels) < 2:
        raise ArtifactError(
            "the model has no head: it names no labels", where=str(model.path), hint="finetune it first"
        )
    return engine


def predict(model: Model, texts: Sequence[str]) -> Predictions:
    """Ask for N texts at once.

    Raises:
        ArtifactError: see ``load``.
    """
    engine = load(model)
    scores = engine.run(engine.encode(texts))
    return Predictions([engine.labels[i] for i in scores.argmax(1)], scores, engine.labels)
