"""Rows of ids through a network that is being trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from feilun.models import tokens


def outputs(network: nn.Module, rows: Sequence[Sequence[int]]) -> Tensor:
    """The head's outputs of N rows, (N, C) or (N, L, C), float32; the rectangle is as wide as its longest row."""
    ids, mask = tokens.pad(rows, max(len(row) for row in rows))
    device = next(network.parameters()).device
    found: Tensor = network(torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device))
    return found
