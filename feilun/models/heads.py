"""What turns an encoder's states into a task's outputs, and outputs into scores."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from feilun.models.shapes import SHAPES


class Head(nn.Module):
    """Outputs from states (N, L, H) and mask (N, L): (N, C) where pooled, else (N, L, C); float32.

    Without numbers at first (on the meta device): they come from a file, or from ``Network.relabel``.

    A head of one plain number answers in units of ``spread`` around ``centre``, so that what is trained has the same
    size whether prices or shares are learned; both are saved with the weights (see ``feilun.tasks.regress``).
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, name: str, hidden: int, labels: int) -> None:
        super().__init__()
        self.name, self.shape = name, SHAPES[name]
        self.outputs = hidden if self.shape.scores == "unit" else self.shape.outputs or max(1, labels)
        if self.shape.scores != "unit":
            self.weight = nn.Parameter(torch.empty(self.outputs, hidden, device="meta"))
            self.bias = nn.Parameter(torch.empty(self.outputs, device="meta"))
        if self.shape.outputs == 1:
            self.register_buffer("centre", torch.zeros(1))
            self.register_buffer("spread", torch.ones(1))

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Outputs, before ``scores``."""
        if self.shape.pooled:
            weight = mask.unsqueeze(-1).to(states.dtype)
            states = (states * weight).sum(1) / weight.sum(1).clamp(min=1)  # a row of padding alone is 0, not NaN
        if self.shape.scores == "unit":
            return states.float()
        outputs = nn.functional.linear(states, self.weight, self.bias).float()
        return outputs * self.spread + self.centre if self.shape.outputs == 1 else outputs

    def scores(self, outputs: Tensor) -> Tensor:
        """What is answered: probabilities, plain numbers, or a vector of length 1."""
        match self.shape.scores:
            case "softmax":
                return outputs.softmax(-1)
            case "sigmoid":
                return outputs.sigmoid()
            case "unit":
                return nn.functional.normalize(outputs, dim=-1)
            case "plain":
                return outputs
