from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from feilun.training import packing

lengths = st.lists(st.integers(1, 150), max_size=400)
budgets = st.integers(1, 2000)


@given(lengths, budgets, st.integers(0, 99), st.integers(0, 9))
def test_packing_loses_and_doubles_no_row(many: list[int], budget: int, seed: int, epoch: int) -> None:
    packed = packing.batches(many, budget, seed, epoch)
    assert sorted(row for batch in packed for row in batch) == list(range(len(many)))


@given(lengths, budgets)
def test_no_batch_is_over_the_budget_unless_it_is_one_long_row(many: list[int], budget: int) -> None:
    for batch in packing.batches(many, budget, 0, 0):
        assert batch
        assert len(batch) == 1 or max(many[r] for r in batch) * len(batch) <= budget


@given(lengths, budgets, st.integers(0, 99), st.integers(0, 9))
def test_the_order_is_decided_by_seed_and_epoch(many: list[int], budget: int, seed: int, epoch: int) -> None:
    assert packing.batches(many, budget, seed, epoch) == packing.batches(many, budget, seed, epoch)


def test_each_epoch_and_each_seed_has_an_order_of_its_own() -> None:
    many = [1 + i % 40 for i in range(500)]
    orders = {str(packing.batches(many, 256, seed, epoch)) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16


def test_little_of_a_batch_is_padding() -> None:
    many = [2 + (i * i) % 90 for i in range(4000)]
    packed = packing.batches(many, 1024, 0, 0)
    padded = sum(max(many[r] for r in batch) * len(batch) for batch in packed)
    assert sum(many) / padded > 0.95
