"""The lazy optimiser of the embedding table beside torch's dense one, step by step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from feilun.models import network
from feilun.training import checkpoint, rows, schedule
from feilun.training.settings import FitSettings
from tests.models import tiny
from tests.training.test_loop import Task

VOCABULARY, WIDTH = 60, 8
RATES = FitSettings(warmup=0.1, schedule="cosine")


def both(steps: int, *, decay: float, size: float, seed: int) -> tuple[nn.Embedding, nn.Embedding, torch.Tensor]:
    """A table after ``steps`` of lazy and of dense AdamW, and before; row i is touched with a chance of about 1 / i."""
    torch.manual_seed(seed)
    lazy, dense = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(VOCABULARY, WIDTH)
    dense.load_state_dict(lazy.state_dict())
    before = lazy.weight.detach().clone()
    chances = 1 / torch.arange(1, VOCABULARY).float()  # as words have; the last row is never touched
    one = rows.Rows(lazy, decay)
    two = torch.optim.AdamW(dense.parameters(), weight_decay=decay)
    for step in range(steps):
        ids = torch.multinomial(chances, 6, replacement=True)
        pull = torch.randn(6, WIDTH) * size
        rate = 1e-3 * schedule.share(step, steps, RATES)
        for module in (lazy, dense):
            torch.autograd.backward((module(ids) * pull).sum())
        assert lazy.weight.grad is not None and lazy.weight.grad.is_sparse
        assert one.values() is not None
        one.step(rate)
        two.param_groups[0]["lr"] = rate
        two.step()
        two.zero_grad()
        # what a forward pass reads is up to date at every step, not only at the end
        assert torch.allclose(lazy(ids), dense(ids), atol=5e-5, rtol=0)
    one.close()
    return lazy, dense, before


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 300), st.sampled_from([0.0, 0.1]), st.sampled_from([1.0, 1e-3]), st.integers(0, 99))
def test_lazy_steps_end_where_dense_ones_do(steps: int, decay: float, size: float, seed: int) -> None:
    lazy, dense, before = both(steps, decay=decay, size=size, seed=seed)
    apart, moved = (lazy.weight - dense.weight).norm(), (dense.weight - before).norm()
    assert apart < 2e-4 * moved + 3e-6  # the second is float32's own rounding of 480 weights near 1


def test_a_row_that_no_token_touched_is_the_dense_one() -> None:
    lazy, dense, before = both(200, decay=0.1, size=1.0, seed=0)
    assert torch.allclose(lazy.weight[-1], dense.weight[-1], rtol=3e-6, atol=0)  # 200 roundings against one
    assert not torch.equal(lazy.weight[-1], before[-1])
    lazy, dense, before = both(200, decay=0.0, size=1.0, seed=0)
    assert torch.equal(lazy.weight[-1], before[-1]) and torch.equal(dense.weight[-1], before[-1])


@pytest.mark.parametrize("size", [1e-5, 1e-7, 1e-8, 1e-9])
def test_gradients_as_small_as_epsilon_do_not_part_them(size: float) -> None:
    """Where one b for all steps is least right: eps is near sqrt(v)."""
    lazy, dense, before = both(300, decay=0.0, size=size, seed=1)
    apart, moved = (lazy.weight - dense.weight).norm(), (dense.weight - before).norm()
    assert apart < 0.01 * moved


def test_an_idle_row_drifts_and_a_reader_that_does_not_settle_sees_the_old_one() -> None:
    """That the difference is there to be made up for: without catching up the test above would fail."""
    torch.manual_seed(0)
    module = nn.Embedding(10, 4)
    one = rows.Rows(module, 0.0)
    for ids in ([1, 2], *[[2, 3]] * 20):
        torch.autograd.backward(module(torch.tensor(ids)).sum())
        one.values()
        one.step(1e-2)
    stale = module.weight[1].detach().clone()
    one.settle()
    assert (module.weight[1] - stale).abs().min() > 4e-2


def big(folder: Path) -> Path:
    """The tiny base with a vocabulary that is worth it."""
    tiny.write_base(folder)
    model = transformers.AutoModel.from_pretrained(folder)
    with network.quiet(), torch.random.fork_rng():
        torch.manual_seed(0)
        model.resize_token_embeddings(rows.LEAST, mean_resizing=False)
        model.save_pretrained(folder)
    return folder


ALL = FitSettings(epochs=2, learning_rate=5e-3, batch_tokens=256, checkpoint_steps=3, seed=7, freeze_embeddings=False)


def test_a_training_with_lazy_rows_resumes_to_the_same_bits(tmp_path: Path) -> None:
    """Case 47 with the table trained."""
    base = big(tmp_path / "base")
    whole, part, resumed = Task(base), Task(base), Task(base)
    losses = whole.train(tmp_path / "whole", ALL)
    part.train(tmp_path / "scratch", ALL, steps=8)
    found = checkpoint.load(tmp_path / "scratch")
    assert found is not None and found[0]["rates/encoder.embeddings.word_embeddings.weight"].shape == (6,)
    assert resumed.train(tmp_path / "scratch", ALL) == losses[6:]
    assert resumed.sha256() == whole.sha256()
    assert not resumed.network.encoder.embeddings.word_embeddings.sparse
    assert not resumed.network.encoder.embeddings.word_embeddings._forward_pre_hooks


def test_the_loop_learns_the_same_with_lazy_rows_as_with_dense_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = big(tmp_path / "base")
    exact = ALL.model_copy(update={"precision": "fp32", "accumulation": 2})
    lazy, dense = Task(base), Task(base)
    curve = lazy.train(tmp_path / "lazy", exact)
    monkeypatch.setattr(rows, "LEAST", rows.LEAST + 1)
    assert curve == pytest.approx(dense.train(tmp_path / "dense", exact), abs=2e-4)
    table = "encoder.embeddings.word_embeddings.weight"
    before = Task(base).network.state_dict()[table]
    apart = (lazy.network.state_dict()[table] - dense.network.state_dict()[table]).norm()
    assert 0 < apart < 1e-3 * (dense.network.state_dict()[table] - before).norm()


def test_a_table_that_something_else_reads_too_is_not_lazy(tmp_path: Path) -> None:
    task = Task(big(tmp_path / "base"))
    encoder = task.network.encoder
    parameters = dict(task.network.named_parameters())
    assert rows.table(task.network, parameters) is not None
    encoder.other = nn.Linear(32, rows.LEAST, bias=False)
    encoder.other.weight = encoder.embeddings.word_embeddings.weight
    assert rows.table(task.network, parameters) is None
