"""A few examples of each label: first texts of one label learn to be near each other, then a head is computed.

The first part contrasts every text of a batch with all others (SupCon, Khosla et al. 2020, arXiv 2004.11362). A batch
of n texts compares n (n - 1) / 2 pairs, and each text goes through the network once; SetFit (Tunstall et al. 2022,
arXiv 2209.11055), whose idea it is to contrast before there is a head, lists its pairs and encodes both sides of each.
Batches are drawn when they are needed: beside the rows themselves there is a number or two a row in memory.

The second part is linear discriminant analysis with a shrunk covariance: sums over the texts, in which their number
does not show, and one system of equations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from feilun.errors import DataError, SettingError
from feilun.models import tokens
from feilun.models.network import Network
from feilun.tasks import classify
from feilun.tasks.task import Examples
from feilun.training import loop, machine
from feilun.training.packing import Plan
from feilun.training.settings import FitSettings

TOGETHER = 4  # texts of one label that are drawn together: each meets at least three of its own, if there are so many
TEMPERATURE = 0.1  # of the cosines
PIECE = 200  # tokens that take as long as one rectangle more: gradients of all weights are added up once more
CHUNK = 256  # texts that are encoded together for the head
SHRINK = 0.5  # the covariance's share that is replaced by the same spread in all directions


class Batches(Sequence[list[int]]):
    """Batches of a training, made when they are asked for: in each round every row is drawn, with rows of its label.

    Args:
        targets: each row's label, (N,).
        size: how many rows a batch has, about.
        rounds: how often each row is drawn.
    """

    def __init__(self, targets: NDArray[np.int64], size: int, rounds: int, seed: int) -> None:
        self._seed = seed
        order = np.argsort(targets, kind="stable")
        self._members = np.split(order, np.flatnonzero(np.diff(targets[order])) + 1)
        groups = sum(-(-len(rows) // TOGETHER) for rows in self._members)
        self.per_round = max(1, groups // max(2, size // TOGETHER))
        self._rounds = rounds
        self._drawn: tuple[int, list[NDArray[np.int64]]] = (-1, [])

    def __len__(self) -> int:
        return self._rounds * self.per_round

    @overload
    def __getitem__(self, number: int) -> list[int]: ...
    @overload
    def __getitem__(self, number: slice) -> list[list[int]]: ...
    def __getitem__(self, number: int | slice) -> list[int] | list[list[int]]:
        """The rows of a batch, each once, always the same for the same number."""
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        if not 0 <= number < len(self):
            raise IndexError(number)
        round_, place = divmod(number, self.per_round)
        if self._drawn[0] != round_:
            self._drawn = (round_, self._draw(round_))
        rows: list[int] = np.unique(self._drawn[1][place]).tolist()
        return rows

    def _draw(self, round_: int) -> list[NDArray[np.int64]]:
        random = np.random.default_rng([self._seed, round_])
        groups: list[NDArray[np.int64]] = []
        for rows in self._members:
            groups += np.array_split(random.permutation(rows), -(-len(rows) // TOGETHER))
        mixed = [groups[i] for i in random.permutation(len(groups))]
        parts = np.array_split(np.arange(len(mixed)), self.per_round)
        return [np.concatenate([mixed[i] for i in part]) for part in parts]


def fit(
    network: Network, examples: Examples, settings: FitSettings, scratch: Path, *, draws: int
) -> Iterator[loop.Progress]:
    """Train ``network`` in place for the labels that it has, yielding after each step.

    Args:
        network: with a head for its labels; whatever the head knew is replaced.
        examples: of ``feilun.tasks.classify``.
        settings: of the loop; an epoch here draws each text ``draws`` times.

    Raises:
        SettingError: the examples are another task's.
        DataError: a label of the network has no example.
        StepError: see ``loop.fit``.
    """
    if not isinstance(examples, classify.Examples):
        raise SettingError("few-shot learns exactly one label for a text", where="method", hint='use method = "full"')
    labels, head = network.labels, network.head.name
    missing = sorted(set(range(len(labels))) - set(examples.targets.tolist()))
    if missing:
        raise DataError(
            f"there is no example of '{labels[missing[0]]}', which the base knows",
            where="method few-shot",
            hint='few-shot computes a new head: give examples of every label, or use method = "full"',
        )
    mean = sum(examples.lengths) / len(examples.rows)
    size = settings.batch_rows or math.ceil(settings.batch_tokens / mean)
    batches = Batches(examples.targets, size, settings.epochs * draws, settings.seed)
    plan = Plan(batches, len(examples.rows) / batches.per_round, batches.per_round * draws, whole=True)
    network.relabel((), settings.seed, "vector")
    yield from loop.fit(network, examples, losses, settings, scratch, plan=plan)
    weight, bias = discriminate(network, examples, settings)
    network.relabel(labels, settings.seed, head)
    network.head.weight, network.head.bias = nn.Parameter(weight), nn.Parameter(bias)
    network.head.to(network.encoder.device)


def losses(network: nn.Module, examples: classify.Examples, chosen: Sequence[int]) -> Tensor:
    """How far each chosen row is from the others of its label, beside all others of the batch, (N,), float32.

    0 for a row that has no other of its label here.
    """
    vectors = nn.functional.normalize(encode(network, [examples.rows[i] for i in chosen]), dim=1)
    near = (vectors @ vectors.T).float() / TEMPERATURE
    itself = torch.eye(len(chosen), dtype=torch.bool, device=near.device)
    targets = torch.from_numpy(examples.targets[chosen]).to(near.device)
    same = (targets[:, None] == targets) & ~itself
    shares = near.masked_fill(itself, -math.inf).log_softmax(1)
    return -shares.masked_fill(~same, 0).sum(1) / same.sum(1).clamp(min=1)


def encode(network: nn.Module, rows: Sequence[Sequence[int]]) -> Tensor:
    """The mean state of each row, (N, H), float32; short and long rows go through the network apart."""
    device = next(network.parameters()).device
    order: list[int] = []
    found = []
    for chosen in rectangles([len(row) for row in rows]):
        ids, mask = tokens.pad([rows[i] for i in chosen], len(rows[chosen[-1]]))
        found.append(network(torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)))
        order += chosen
    return torch.cat(found)[np.argsort(order)]


def rectangles(lengths: Sequence[int]) -> list[list[int]]:
    """Row numbers, sorted by length, of one rectangle or of two, as it is cheaper.

    >>> rectangles([9, 90, 10, 80])
    [[0, 2, 3, 1]]
    >>> rectangles([9, 90, 10, 80] * 2)
    [[0, 4, 2, 6], [3, 7, 1, 5]]
    """
    order = np.argsort(lengths, kind="stable")
    wide = np.asarray(lengths)[order]
    first = np.arange(1, len(order) + 1)  # how many rows the first one has
    area = first * wide + (len(order) - first) * wide[-1] + np.where(first < len(order), PIECE, 0)
    cut = int(area.argmin()) + 1
    return [part.tolist() for part in (order[:cut], order[cut:]) if len(part)]


@torch.no_grad()
def discriminate(network: Network, examples: classify.Examples, settings: FitSettings) -> tuple[Tensor, Tensor]:
    """Weight (C, H) and bias (C,) of a head: each label's mean, seen through the spread within labels."""
    device = machine.device(settings)
    labels = int(examples.targets.max()) + 1
    counts = torch.from_numpy(np.bincount(examples.targets, minlength=labels)).double()
    hidden = network.head.outputs
    sums, products = torch.zeros(labels, hidden).double(), torch.zeros(hidden, hidden).double()
    for start in range(0, len(examples.rows), CHUNK):
        with machine.autocast(settings, device):
            vectors = encode(network, examples.rows[start : start + CHUNK]).double().cpu()
        targets = torch.from_numpy(examples.targets[start : start + CHUNK])
        member = nn.functional.one_hot(targets, labels).double()
        sums += member.T @ vectors
        products += vectors.T @ vectors
    means = sums / counts[:, None]
    within = (products - (means * counts[:, None]).T @ means) / len(examples.rows)
    overall = sums.sum(0) / len(examples.rows)
    spread = (products.diagonal() / len(examples.rows) - overall**2).mean().clamp(min=1e-9)
    within = (1 - SHRINK) * within + SHRINK * spread * torch.eye(len(within), dtype=torch.double)
    weight = torch.linalg.solve(within, means.T).T
    frequent = ((counts + 1) / (counts + 1).sum()).log() - torch.from_numpy(examples.offset)
    return weight.float(), (frequent - (weight * means).sum(1) / 2).float()
