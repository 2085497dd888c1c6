"""AdamW on a table of embeddings that does no work for rows that no token touched.

An untouched row has no gradient, yet AdamW moves it: its moments fade and push for a while, and its weights decay. All
of that is known in advance, so a row waits until a token needs it, or the whole table is read, and then takes all the
steps that it missed at once. After k missed steps, from the moments m and v and the weight w of step s::

    w' = w P(s+k)/P(s) - P(s+k) sum over i = s+1 .. s+k of  c(i) m / (b(i) sqrt(v) + eps)
    m' = beta1^k m,  v' = beta2^k v

    P(i) = product of 1 - rate(j) decay up to i,       c(i) = rate(i) beta1^(i-s) / ((1 - beta1^i) P(i)),
    b(i) = sqrt(beta2^(i-s) / (1 - beta2^i))

That is AdamW's own sum (Loshchilov and Hutter 2019, arXiv 1711.05101), not a variant as torch.optim.SparseAdam is. A
row that was never touched has m = 0, so for it the result is the dense one exactly. For the others the sum is taken
with one b for all i, the harmonic mean of b(i) under the weights c(i): right in both limits, eps far below sqrt(v) and
far above it, and between them off by the square of how far the b(i) differ. Measured on rows that idle for up to
hundreds of steps (tests/training/test_rows.py), as a share of how far dense AdamW moved the table: 5e-5, float32's own
rounding, where gradients are 0.01 and more, 1.3e-4 at 1e-4, and never more than 0.008, which is where they are of the
size of eps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

LEAST = 1000  # rows of a table below which dense AdamW is as fast
WINDOW = 400  # missed steps after which a row's moments push no more: 0.9^400 is below 1e-18
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # those of torch.optim.AdamW


def table(network: nn.Module, parameters: Mapping[str, nn.Parameter]) -> tuple[str, nn.Embedding] | None:
    """The trained embedding with the most rows, if it is large and no other module shares its weights."""
    uses = [id(p) for _, p in network.named_parameters(remove_duplicate=False)]
    found = [
        (f"{name}.weight", module)
        for name, module in network.named_modules()
        if type(module) is nn.Embedding and f"{name}.weight" in parameters and uses.count(id(module.weight)) == 1
    ]
    found = [one for one in found if one[1].num_embeddings >= LEAST]
    return max(found, key=lambda one: one[1].num_embeddings, default=None)


class Rows:
    """The optimiser of one embedding module, until ``close``.

    The module gives sparse gradients meanwhile, and lets the rows that it is asked for catch up before it answers. Who
    reads the table itself calls ``settle`` first.
    """

    def __init__(self, module: nn.Embedding, decay: float) -> None:
        self.weight, self.module, self.decay = module.weight, module, decay
        self.mean, self.square = torch.zeros_like(module.weight), torch.zeros_like(module.weight)
        self.last = torch.zeros(len(module.weight), dtype=torch.int64, device=module.weight.device)
        self.rates: list[float] = []  # of the steps taken
        self.kept = np.ones(1)  # P
        self.push = np.zeros(1)  # for each s, the sum of c(i) up to now
        self.over = np.zeros(1)  # for each s, the sum of c(i) / b(i) up to now
        self.hook = module.register_forward_pre_hook(self._before)
        module.sparse = True

    def _before(self, module: nn.Module, given: tuple[Any, ...]) -> None:
        self.catch_up(given[0].unique())

    def values(self) -> Tensor | None:
        """The gradient of the touched rows, (R, H); None where there is none."""
        if self.weight.grad is None:
            return None
        self.weight.grad = self.weight.grad.coalesce()
        values: Tensor = self.weight.grad.values()
        return values

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One step of AdamW for the rows that have a gradient; for the others it is noted."""
        if self.weight.grad is None:
            return
        rows, gradient = self.weight.grad.indices()[0], self.weight.grad.values()
        self.weight.grad = None
        self._note(rate)
        now = len(self.rates)
        mean = self.mean[rows].lerp_(gradient, 1 - BETA1)
        square = self.square[rows].mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        below = (square / (1 - BETA2**now)).sqrt_().add_(EPSILON)
        moved = self.weight[rows].mul_(1 - rate * self.decay).addcdiv_(mean, below, value=-rate / (1 - BETA1**now))
        self._put(rows, moved, mean, square)

    @torch.no_grad()
    def catch_up(self, rows: Tensor) -> None:
        """Let rows (R,) take the steps that they missed."""
        now = len(self.rates)
        rows = rows[self.last[rows] < now]
        if not len(rows):
            return
        since = self.last[rows].cpu().numpy()
        push = self.push[since]
        typical = push / np.where(self.over[since] > 0, self.over[since], 1.0)  # the harmonic mean of b(i)
        like = self.weight

        def column(numbers: Any) -> Tensor:
            return torch.from_numpy(numbers).to(like.device, like.dtype).unsqueeze(1)

        missed = now - since
        mean, square, weight = self.mean[rows], self.square[rows], self.weight[rows]
        below = square.sqrt().mul_(column(typical)).add_(EPSILON)
        weight.mul_(column(self.kept[now] / self.kept[since]))
        weight.sub_(mean.div(below).mul_(column(push * self.kept[now])))
        self._put(rows, weight, mean.mul_(column(BETA1**missed)), square.mul_(column(BETA2**missed)))

    def settle(self) -> None:
        """Let all rows take the steps that they missed."""
        self.catch_up(torch.arange(len(self.weight), device=self.weight.device))

    def close(self) -> None:
        """Give the module back as it was, its table settled."""
        self.settle()
        self.hook.remove()
        self.module.sparse = False

    def tensors(self) -> dict[str, Tensor]:
        """For the checkpoint."""
        rates = torch.tensor(self.rates, dtype=torch.float64)
        return {"exp_avg": self.mean, "exp_avg_sq": self.square, "last": self.last, "rates": rates}

    def resume(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint; the weights are put back by who calls."""
        self.mean.copy_(tensors["exp_avg"])
        self.square.copy_(tensors["exp_avg_sq"])
        self.last.copy_(tensors["last"])
        for rate in tensors["rates"].tolist():
            self._note(rate)

    def _put(self, rows: Tensor, weight: Tensor, mean: Tensor, square: Tensor) -> None:
        self.weight.index_copy_(0, rows, weight)
        self.mean.index_copy_(0, rows, mean)
        self.square.index_copy_(0, rows, square)
        self.last[rows] = len(self.rates)

    def _note(self, rate: float) -> None:
        """One step more: what it does to a row that misses it, by how long the row has been missing steps."""
        now = len(self.rates) + 1
        if now == len(self.kept):
            self.kept, self.push, self.over = (np.resize(a, 2 * now) for a in (self.kept, self.push, self.over))
        self.rates.append(rate)
        self.kept[now] = self.kept[now - 1] * (1 - rate * self.decay)
        self.push[now] = self.over[now] = 0.0
        first = max(0, now - WINDOW)
        missed = np.arange(now - first, 0, -1)  # of rows last touched at first, ..., now - 1
        push = rate * BETA1**missed / ((1 - BETA1**now) * self.kept[now])
        self.push[first:now] += push
        self.over[first:now] += push / np.sqrt(BETA2**missed / (1 - BETA2**now))
