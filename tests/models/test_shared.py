"""Many models on one base: each row meets its own model's weights, whoever shares the run."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from faults import adapters
from faults.house import CONTEXT, LABELS, WORDS
from feilun.errors import ArtifactError
from feilun.models import apart, heads, shared, tables, tokens
from feilun.models.shapes import SHAPES
from feilun.pipeline.kinds import Model
from feilun.store.artifacts import ArtifactStore
from feilun.store.migrations import open_database

RANKS = (0, 2, 3, 2, 0, 2, 3, 2)
TEXTS = ["good fine film", "we like it not at all .", "bad", " ".join(WORDS), "slow sharp ending"]
ROWS = st.lists(st.integers(2, len(WORDS)), min_size=1, max_size=CONTEXT)


class Kept:
    """A store with a base and a few models of it."""

    def __init__(self, folder: Path) -> None:
        with open_database(f"sqlite:///{folder}/feilun.db") as database:
            store = ArtifactStore(folder / "artifacts", database)
            self.base = adapters.add_base(store, folder)
            self.models = [adapters.add_adapter(store, folder, self.base, n, rank) for n, rank in enumerate(RANKS)]

    def open(self, budget: int = shared.BUDGET) -> list[shared.Member]:
        """All of them, on one base."""
        bases = shared.Bases(threads=1, budget=budget)
        return [bases.open(model) for model in self.models]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return Kept(tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="module")
def members(kept: Kept) -> Iterator[list[shared.Member]]:
    yield kept.open()


def merged(folder: Path, base: Path, row: Sequence[int]) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """What a model answers to one row, by numpy and with its changes merged into the base's own weights."""
    import openvino

    constants = {}
    graph = openvino.Core().read_model(base / "model.xml")
    for operation in graph.get_ordered_ops():
        if operation.get_friendly_name().startswith("linear:"):
            weight = operation.input_value(1).get_node().data.copy()
            bias = next(iter(operation.output(0).get_target_inputs())).get_node().input_value(1).get_node().data.copy()
            constants[operation.get_friendly_name().removeprefix("linear:")] = (weight, bias)
    table = next(o for o in graph.get_ops() if o.get_type_name() == "Gather").input_value(0).get_node().data
    changes = apart.read_changes(folder) if (folder / apart.FOLDER).is_dir() else None
    states = torch.from_numpy(table[list(row)])
    for name, (weight, bias) in constants.items():
        own = (changes.down[name] @ changes.up[name]).T if changes is not None and name in changes.down else 0
        states = torch.nn.functional.gelu(states @ torch.from_numpy(weight + own).T + torch.from_numpy(bias[0]))
    head = apart.read_tensors(folder / apart.HEAD)
    outputs = torch.from_numpy(head["weight"]) @ states.mean(0) + torch.from_numpy(head["bias"])
    return outputs.softmax(-1).numpy()


def test_every_model_answers_as_if_its_changes_were_merged(kept: Kept, members: list[shared.Member]) -> None:
    rows = members[0].encode(TEXTS)
    for model, member in zip(kept.models, members, strict=True):
        expected = [merged(model.path, kept.base.path, row) for row in rows]
        np.testing.assert_allclose(member.run(rows), expected, atol=1e-5)


@given(st.lists(st.tuples(st.integers(0, len(RANKS) - 1), ROWS), min_size=1, max_size=40))
def test_a_row_is_answered_by_its_own_model_to_the_last_bit_whoever_shares_the_run(
    members: list[shared.Member], asked: list[tuple[int, list[int]]]
) -> None:
    for group in {member.group for member in members}:
        own = [(n, row) for n, row in asked if members[n].group is group]
        found = group.outputs_each([members[n] for n, _ in own], [row for _, row in own])
        for (number, row), scores in zip(own, found, strict=True):
            assert np.array_equal(scores, members[number].outputs([row])[0])


def test_models_of_one_base_share_it_and_it_goes_with_the_last_of_them(kept: Kept) -> None:
    bases = shared.Bases(threads=1)
    first, second = bases.open(kept.models[0]), bases.open(kept.models[1])
    assert first.group.base is second.group.base
    assert first.tokenizer is second.tokenizer
    assert first.group is bases.open(kept.models[4]).group
    base = weakref.ref(first.group.base)
    del first
    gc.collect()
    assert base() is second.group.base
    del second
    gc.collect()
    assert base() is None


def test_changes_stay_within_their_budget_and_come_back_when_they_are_asked_for(
    kept: Kept, members: list[shared.Member]
) -> None:
    largest = max(member.wanted.size for member in members if member.wanted)
    few = kept.open(budget=2 * largest)
    pool = few[0].group.base.pool
    rows = few[0].encode(TEXTS)
    for number in (1, 2, 3, 5, 6, 7, 1, 3):
        assert np.array_equal(few[number].run(rows), members[number].run(rows))
        assert pool.used <= 2 * largest
    assert pool.loads > 6
    two = [n for n in range(len(RANKS)) if RANKS[n] == 2]
    together = few[two[0]].group.outputs_each([few[n] for n in two for _ in rows], [row for _ in two for row in rows])
    alone = [scores for n in two for scores in members[n].outputs(rows)]
    assert all(np.array_equal(a, b) for a, b in zip(together, alone, strict=True))
    assert pool.used <= 2 * largest


def test_a_model_larger_than_the_budget_is_let_in_alone(kept: Kept, members: list[shared.Member]) -> None:
    tight = kept.open(budget=1)
    rows = tight[0].encode(TEXTS)
    for number in (1, 2, 3):
        assert np.array_equal(tight[number].run(rows), members[number].run(rows))


def test_threads_that_crowd_each_other_out_get_their_own_answers(kept: Kept, members: list[shared.Member]) -> None:
    bases = shared.Bases(threads=2, budget=2 * max(m.wanted.size for m in members if m.wanted))
    few = [bases.open(model) for model in kept.models]
    rows = few[0].encode(TEXTS)
    expected = [member.outputs(rows) for member in members]
    wrong: list[int] = []

    def ask(seed: int) -> None:
        chance = np.random.default_rng(seed)
        for _ in range(60):
            kind = few[int(chance.integers(len(few)))].group
            mine = [n for n, member in enumerate(few) if member.group is kind]
            numbers = [int(n) for n in chance.choice(mine, 8)]
            found = kind.outputs_each([few[n] for n in numbers], [rows[n % 5] for n in numbers])
            wrong.extend(
                n for n, scores in zip(numbers, found, strict=True) if not np.array_equal(scores, expected[n][n % 5])
            )

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []


def test_a_model_that_is_dropped_gives_its_room_back(kept: Kept) -> None:
    bases = shared.Bases(threads=1)
    stays, goes = bases.open(kept.models[1]), bases.open(kept.models[3])
    stays.run(stays.encode(TEXTS))
    goes.run(goes.encode(TEXTS))
    before = bases.pool.used
    del goes
    gc.collect()
    stays.run(stays.encode(TEXTS))
    assert bases.pool.used == before // 2


def changed(store: Path, base: Model, seed: int) -> Path:
    """A model's folder outside of the store, so that it can be spoiled."""
    adapters.build_adapter(store / f"loose-{seed}", seed, 2)
    return store / f"loose-{seed}"


def test_weights_that_were_changed_after_they_were_opened_are_refused(kept: Kept, tmp_path: Path) -> None:
    folder = changed(tmp_path, kept.base, 7)
    bases = shared.Bases(threads=1)
    member = bases.member(folder, kept.base)
    place = folder / apart.FOLDER / apart.WEIGHTS
    tensors = apart.read_tensors(place)
    save_file({name: tensor * 2 for name, tensor in tensors.items()}, place)
    with pytest.raises(ArtifactError, match="changed since it was opened"):
        member.encode(["good"])
    with pytest.raises(ArtifactError, match="changed since it was opened"):
        member.outputs([[3, 4]])
    other = bases.open(kept.models[1])
    assert len(other.outputs([[3, 4]])) == 1


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "use_dora": True}, "use_dora"),
        ({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "all"}, "biases"),
        ({"peft_type": "LORA", "r": 5, "lora_alpha": 4}, "do not belong together"),
        ({"peft_type": "LORA", "r": 0, "lora_alpha": 4}, "cannot be read"),
        ({"peft_type": "PREFIX_TUNING"}, "not LoRA"),
        ([], "not LoRA"),
    ],
)
def test_adapters_of_other_kinds_are_refused(kept: Kept, tmp_path: Path, told: object, said: str) -> None:

    folder = changed(tmp_path, kept.base, 1)
    (folder / apart.FOLDER / apart.CONFIG).write_text(json.dumps(told))
    with pytest.raises(ArtifactError, match=said):
        shared.Bases(threads=1).member(folder, kept.base)


def test_an_adapter_for_another_base_is_refused(kept: Kept, tmp_path: Path) -> None:
    adapters.build_adapter(tmp_path / "a", 1, 2, {"mix.first": (16, 25)})
    adapters.build_adapter(tmp_path / "b", 1, 2, {"mix.third": (16, 24)})
    for name in "ab":
        with pytest.raises(ArtifactError, match="for another model: mix"):
            shared.Bases(threads=1).member(tmp_path / name, kept.base)


def test_an_adapter_may_change_some_modules_alone(kept: Kept, tmp_path: Path) -> None:
    adapters.build_adapter(tmp_path / "some", 1, 2, {"mix.second": adapters.SIZES["mix.second"]})
    member = shared.Bases(threads=1).member(tmp_path / "some", kept.base)
    row = member.encode(["good fine film"])[0]
    np.testing.assert_allclose(member.outputs([row])[0], merged(tmp_path / "some", kept.base.path, row), atol=1e-5)


def test_a_base_whose_files_were_changed_is_refused(tmp_path: Path) -> None:
    own = Kept(tmp_path)
    weights = own.base.path / "model.bin"
    weights.chmod(0o644)
    body = bytearray(weights.read_bytes())
    body[100] ^= 1
    weights.write_bytes(bytes(body))
    with pytest.raises(ArtifactError, match="was changed"):
        shared.Bases(threads=1).open(own.models[0])


@pytest.mark.parametrize("context", [0, CONTEXT + 1, "many", None])
def test_a_context_that_the_base_does_not_have_is_refused(kept: Kept, tmp_path: Path, context: object) -> None:

    folder = changed(tmp_path, kept.base, 1)
    config = json.loads((folder / "config.json").read_text())
    config["feilun"]["context"] = context
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match="context"):
        shared.Bases(threads=1).member(folder, kept.base)


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_heads_in_numpy_say_what_they_say_in_torch(name: str, tmp_path: Path) -> None:
    labels = len(LABELS)
    head = heads.Head(name, 16, labels)
    chance = torch.Generator().manual_seed(0)
    if SHAPES[name].scores != "unit":
        head.weight = torch.nn.Parameter(torch.randn(head.outputs, 16, generator=chance))
        head.bias = torch.nn.Parameter(torch.randn(head.outputs, generator=chance))
        if head.outputs == 1:
            head.centre, head.spread = torch.tensor([3.0]), torch.tensor([0.5])
        save_file({k: v.detach().numpy() for k, v in head.state_dict().items()}, tmp_path / apart.HEAD)
    states = torch.randn(1, 5, 16, generator=chance)
    with torch.inference_mode():
        expected = head.scores(head(states, torch.ones(1, 5, dtype=torch.long)))[0].numpy()
    found = apart.read_head(tmp_path, name, labels)
    given_states = states[0].mean(0).numpy() if SHAPES[name].pooled else states[0].numpy()
    np.testing.assert_allclose(found.scores(given_states), expected, rtol=1e-5, atol=1e-6)


def test_a_model_takes_no_more_memory_than_a_fifth_above_its_size(tmp_path: Path) -> None:
    """60 models of 1 MB each: what the process grows by, beside the sum of their sizes."""
    sizes = {f"m.{n}": (256, 256) for n in range(64)}
    adapters.build_adapter(tmp_path / "one", 1, 8, sizes)
    read = apart.read_changes(tmp_path / "one")
    pool = tables.Pool(100 << 20)
    wanted = [tables.Wanted(n, "base", read.kind, sizes, read.size, lambda: read) for n in range(60)]
    process = psutil.Process()
    pool.fetch(wanted[0])
    gc.collect()
    before = process.memory_info().rss
    for one in wanted[1:]:
        pool.fetch(one)
    grown = process.memory_info().rss - before
    assert grown <= 1.2 * 59 * read.size
    for one in wanted:
        pool.forget(one.key)
    pool.fetch(wanted[0])
    assert pool.used == read.size
    assert process.memory_info().rss - before <= 0.2 * 59 * read.size


def test_tokens_are_cut_where_the_model_was_told_to(kept: Kept, tmp_path: Path) -> None:

    folder = changed(tmp_path, kept.base, 1)
    config = json.loads((folder / "config.json").read_text())
    config["feilun"]["context"] = 5
    (folder / "config.json").write_text(json.dumps(config))
    bases = shared.Bases(threads=1)
    short, whole = bases.member(folder, kept.base), bases.open(kept.models[0])
    assert [len(m.encode([" ".join(WORDS)])[0]) for m in (short, whole)] == [5, len(WORDS)]
    assert tokens.context_of(short.tokenizer) == short.context == 5


def test_models_of_a_base_are_opened_without_torch() -> None:
    asked = "import sys; import feilun.models.shared; print('torch' in sys.modules, 'transformers' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["False", "False"]
