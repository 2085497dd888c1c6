from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from feilun.errors import DataError, SettingError
from feilun.models import network as networks
from feilun.tasks import classify
from feilun.tasks.options import TaskOptions
from feilun.training import fewshot
from feilun.training.settings import FitSettings
from tests.models import tiny

NUMBERS = st.lists(st.integers(0, 5), min_size=1, max_size=60)


@given(NUMBERS, st.integers(1, 40), st.integers(1, 4), st.integers(0, 3))
def test_every_row_is_drawn_once_in_each_round(labels: list[int], size: int, rounds: int, seed: int) -> None:
    batches = fewshot.Batches(np.array(labels), size, rounds, seed)
    drawn = Counter(row for batch in batches for row in batch)
    assert drawn == dict.fromkeys(range(len(labels)), rounds)


@given(NUMBERS, st.integers(0, 3))
def test_a_row_meets_another_of_its_label_where_there_is_one(labels: list[int], seed: int) -> None:
    counts = Counter(labels)
    for batch in fewshot.Batches(np.array(labels), 8, 2, seed):
        here = Counter(labels[row] for row in batch)
        assert all(here[label] > 1 or counts[label] == 1 for label in here)


def test_a_batch_is_the_same_whenever_it_is_asked_for() -> None:
    targets = np.arange(40) % 5
    batches, again = fewshot.Batches(targets, 8, 3, 7), fewshot.Batches(targets, 8, 3, 7)
    backwards = [again[i] for i in reversed(range(len(again)))][::-1]
    assert list(batches) == backwards == batches[:]
    assert batches[0] != fewshot.Batches(targets, 8, 3, 8)[0]


def test_memory_for_the_draws_is_a_few_numbers_a_row_not_a_row_of_pairs() -> None:
    """40,000 rows have 800 million pairs."""
    import tracemalloc

    targets = np.arange(40_000) % 77
    tracemalloc.start()
    batches = fewshot.Batches(targets, 64, 1000, 0)
    assert len(batches[0]) >= 64 and len(batches[len(batches) - 1]) >= 64
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 40_000 * 500


def _network(folder: Path, labels: tuple[str, ...] = ("bad", "fair", "good")) -> networks.Network:
    network = networks.load(tiny.write_base(folder / "base"), tiny.CONTEXT)
    network.relabel(labels, 0)
    return network


def _examples(network: networks.Network, rows: int = 24, **options: float) -> classify.Examples:
    return classify.examples(tiny.frame(rows), network, TaskOptions.model_validate(options))


def test_the_loss_is_that_of_the_formula(tmp_path: Path) -> None:
    network = _network(tmp_path)
    examples = _examples(network, 12)
    network.relabel((), 0, "vector")
    chosen = [0, 1, 2, 3, 4, 7]
    with torch.no_grad():
        found = fewshot.losses(network, examples, chosen)
        vectors = [fewshot.encode(network, [examples.rows[i]])[0] for i in chosen]
    for a, row in enumerate(chosen):
        near = {
            b: torch.cosine_similarity(vectors[a], vectors[b], dim=0).item() / fewshot.TEMPERATURE
            for b in range(len(chosen))
            if b != a
        }
        whole = np.log(sum(np.exp(n) for n in near.values()))
        same = [b for b in near if examples.targets[chosen[b]] == examples.targets[row]]
        wanted = np.mean([whole - near[b] for b in same]) if same else 0.0
        assert found[a].item() == pytest.approx(wanted, rel=1e-4, abs=1e-4)


def test_the_head_is_that_of_discriminant_analysis(tmp_path: Path) -> None:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    network = _network(tmp_path)
    examples = _examples(network, 60)
    network.relabel((), 0, "vector")
    fit = FitSettings(precision="fp32")
    weight, bias = fewshot.discriminate(network, examples, fit)
    with torch.no_grad():
        vectors = fewshot.encode(network, examples.rows).double()
    means = torch.stack([vectors[torch.from_numpy(examples.targets == c)].mean(0) for c in range(3)])
    around = vectors - means[torch.from_numpy(examples.targets)]
    spread = (vectors - vectors.mean(0)).pow(2).mean()
    within = (1 - fewshot.SHRINK) * around.T @ around / 60 + fewshot.SHRINK * spread * torch.eye(32)

    class Given:
        def fit(self, _: object) -> Given:
            self.covariance_ = within.numpy()
            return self

    reference = LinearDiscriminantAnalysis(solver="lsqr", covariance_estimator=Given())
    reference.fit(vectors.numpy(), examples.targets)
    ours = (vectors.float() @ weight.T + bias).log_softmax(1)
    theirs = reference.predict_log_proba(vectors.numpy())
    assert np.allclose(ours.numpy(), theirs, atol=0.02)


def test_a_few_examples_of_each_label_are_enough(tmp_path: Path) -> None:
    network = _network(tmp_path)
    held_out = tiny.frame(240, seed=5)
    before = [p.clone() for p in network.encoder.parameters()]
    fit = FitSettings(learning_rate=5e-3, freeze_embeddings=False, batch_tokens=512)
    steps = list(fewshot.fit(network, _examples(network, 96), fit, tmp_path, draws=30))
    assert steps[-1].step == steps[-1].steps and steps[-1].loss < steps[0].loss
    assert any((a != b).any() for a, b in zip(before, network.encoder.parameters(), strict=True))
    assert network.labels == ("bad", "fair", "good") and network.head.name == "label"
    right = classify.answer(networks.Answering(network), held_out).raw.argmax(1)
    truth = [network.labels.index(label) for label in held_out["label"]]
    assert (right == truth).mean() > 0.7


def test_labels_can_be_answered_as_if_all_were_equally_frequent(tmp_path: Path) -> None:
    network = _network(tmp_path, ("bad", "good"))
    rows = tiny.frame(40, labels=("bad", "good"))
    rows = rows.filter((rows["label"] == "bad") | (rows["id"] < "row-0008"))
    network.relabel((), 0, "vector")
    biases = []
    for balance in (0.0, 1.0):
        network.labels = ("bad", "good")
        numbers = classify.examples(rows, network, TaskOptions(balance=balance))
        biases.append(fewshot.discriminate(network, numbers, FitSettings())[1])
    share = np.log(np.array([21, 5]) / 26)
    assert torch.allclose(biases[0] - biases[1], torch.from_numpy(share).float(), atol=1e-3)


def test_a_label_of_the_base_without_an_example_is_refused(tmp_path: Path) -> None:
    network = _network(tmp_path, ("bad", "dreadful", "fair", "good"))
    with pytest.raises(DataError, match="no example of 'dreadful'"):
        next(fewshot.fit(network, _examples(network), FitSettings(), tmp_path, draws=1))


@settings(max_examples=5, deadline=None)
@given(st.integers(1, 6))
def test_rows_of_any_number_and_labels_of_one_example_can_be_learned(rows: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        network = _network(Path(folder), ("bad", "fair", "good")[: max(1, min(3, rows))])
        examples = _examples(_network(Path(folder)), 8)
        few = dataclasses.replace(examples, rows=examples.rows[:rows], targets=examples.targets[:rows])
        few = dataclasses.replace(few, offset=examples.offset[: len(network.labels)])
        list(fewshot.fit(network, few, FitSettings(), Path(folder), draws=2))
        assert all(torch.isfinite(p).all() for p in network.parameters())


def test_other_tasks_are_refused(tmp_path: Path) -> None:
    class Others:
        lengths = (1, 2)

        def __len__(self) -> int:
            return 2

    with pytest.raises(SettingError, match="exactly one label"):
        next(fewshot.fit(_network(tmp_path), Others(), FitSettings(), tmp_path, draws=1))
