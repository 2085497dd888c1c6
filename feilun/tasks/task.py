"""What a task is: a module of this package with these names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:  # what answers imports this and loads no torch
    import polars as pl
    from torch import Tensor

    from feilun.pipeline.kinds import Model
    from feilun.tasks.metrics import Metric
    from feilun.tasks.options import TaskOptions


class Examples(Protocol):
    """Rows as numbers."""

    def __len__(self) -> int:
        """How many there are."""

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens in each row."""


@dataclass(frozen=True)
class TokenRows:
    """Examples that are rows of token ids; a task adds what is right for each."""

    rows: list[list[int]]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths(self) -> list[int]:
        """Tokens in each row."""
        return [len(row) for row in self.rows]


@dataclass(frozen=True)
class Answered:
    """What a model said of N rows.

    ``said``: for each row what a caller is told, JSON-able; ``raw``: what ``Task.measure`` needs beside that.
    """

    said: list[dict[str, Any]]
    raw: Any


class Task(Protocol):
    """How examples become tensors, the loss, and how outputs become answers and figures.

    ``HEAD``: a name of ``feilun.models.shapes.SHAPES``, or "words" for a causal language model's own.
    ``READS``: what a question has: ``text``, and what else ``answer`` reads.
    ``COLUMNS``: what a dataset must hold beside ``text`` to be learned from or measured with.
    """

    HEAD: str
    COLUMNS: tuple[str, ...]
    READS: tuple[str, ...]

    def labels(self, frame: pl.DataFrame) -> list[str]:
        """The labels that occur, sorted; none where the task has none."""

    def examples(self, frame: pl.DataFrame, network: Any, options: TaskOptions) -> Examples:
        """Rows of a dataset as numbers, for a network that has its labels."""

    def losses(self, network: Any, examples: Any, chosen: Sequence[int]) -> Tensor:
        """Each chosen row's loss, (N,), float32."""

    def load(self, model: Model) -> Any:
        """What answers: an engine, for ``answer``."""

    def answer(self, engine: Any, frame: pl.DataFrame) -> Answered:
        """Ask for N rows; the columns that hold the truth are not read and may be absent."""

    def measure(self, frame: pl.DataFrame, answered: Answered, labels: Sequence[str]) -> list[Metric]:
        """Figures of N answers against the truth in ``frame``; the first is the one that models are chosen by."""


@runtime_checkable
class ReadsMore(Protocol):
    """A task whose questions may have more than ``READS``, and then are answered otherwise."""

    MAY_READ: tuple[str, ...]


@runtime_checkable
class Decides(Protocol):
    """A task that chooses something for its answers once the weights are there; models keep it in config.json."""

    def decide(self, network: Any, held_out: pl.DataFrame, options: TaskOptions) -> dict[str, Any]:
        """What engines find in ``decided``; ``held_out``: rows that were not learned from, maybe none."""
