"""One label for a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from feilun.errors import DataError
from feilun.models import tokens
from feilun.models.network import Network
from feilun.tasks import metrics


@dataclass(frozen=True)
class Examples:
    """N rows of token ids and the number of each row's label."""

    rows: list[list[int]]
    targets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths(self) -> list[int]:
        """Tokens in each row."""
        return [len(row) for row in self.rows]


def labels(frame: pl.DataFrame) -> list[str]:
    """The labels that occur, sorted.

    Raises:
        DataError: fewer than two.
    """
    found = sorted(frame["label"].unique().to_list())
    if len(found) < 2:
        raise DataError(
            f"to classify takes at least two labels; the training rows have {len(found)}: {', '.join(found) or 'none'}",
            where="column label",
            hint="check the label column and the thresholds of prepare",
        )
    return found


def examples(frame: pl.DataFrame, tokenizer: Tokenizer, labels: Sequence[str]) -> Examples:
    """Texts and labels as numbers; texts are cut at the tokenizer's context."""
    targets = metrics.numbers(frame["label"].to_list(), labels)
    return Examples(tokens.encode(tokenizer, frame["text"].to_list()), targets)


def losses(network: Network, examples: Examples, chosen: Sequence[int]) -> Tensor:
    """Cross-entropy of each chosen row, (N,), float32; the rectangle is as wide as its longest row."""
    rows = [examples.rows[i] for i in chosen]
    ids, mask = tokens.pad(rows, max(len(row) for row in rows))
    logits = network(torch.from_numpy(ids), torch.from_numpy(mask))
    return torch.nn.functional.cross_entropy(logits, torch.from_numpy(examples.targets[chosen]), reduction="none")
