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
    """N rows of token ids, the number of each row's label, and what is added to the C logits while training."""

    rows: list[list[int]]
    targets: NDArray[np.int64]
    offset: NDArray[np.float32]

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


def examples(frame: pl.DataFrame, tokenizer: Tokenizer, labels: Sequence[str], balance: float = 0.0) -> Examples:
    """Texts and labels as numbers; texts are cut at the tokenizer's context.

    Args:
        balance: 0 learns how frequent the labels are, and answers by it; 1 learns to answer as if all were equally
            frequent, which is best for macro-F1 (logit adjustment, Menon et al. 2021, arXiv 2007.07314).

    Raises:
        DataError: a label that is not among ``labels``.
    """
    targets = metrics.numbers(frame["label"].to_list(), labels)
    share = (np.bincount(targets, minlength=len(labels)) + 1) / (len(targets) + len(labels))
    offset = (balance * np.log(share)).astype(np.float32)
    return Examples(tokens.encode(tokenizer, frame["text"].to_list()), targets, offset)


def losses(network: Network, examples: Examples, chosen: Sequence[int]) -> Tensor:
    """Cross-entropy of each chosen row, (N,), float32; the rectangle is as wide as its longest row."""
    rows = [examples.rows[i] for i in chosen]
    ids, mask = tokens.pad(rows, max(len(row) for row in rows))
    logits = network(torch.from_numpy(ids), torch.from_numpy(mask)) + torch.from_numpy(examples.offset)
    return torch.nn.functional.cross_entropy(logits, torch.from_numpy(examples.targets[chosen]), reduction="none")
