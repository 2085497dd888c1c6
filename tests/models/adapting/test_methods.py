"""Every method on a small encoder: what is trained, that a merged model is the same model, and peft's files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from feilun.compress import quantise
from feilun.errors import ArtifactError, SettingError
from feilun.models import network, openvino
from feilun.models.adapting import adapted, low_rank, methods
from feilun.models.adapting.options import MethodOptions
from feilun.tasks import classify
from feilun.tasks.options import TaskOptions
from tests.models import tiny

IDS = torch.tensor([[2, 5, 6, 17, 3], [2, 9, 3, 0, 0]])
MASK = (IDS > 0).long()
SETTINGS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora of rank 4 on two targets": {
        "rank": 4,
        "rslora": True,
        "targets": ("query", "intermediate.dense"),
    },
    "dora": {"dora": True},
    "gaussian": {"init": "gaussian"},
    "orthogonal": {"init": "orthogonal"},
    "pissa": {"init": "pissa"},
    "pissa with rslora": {"init": "pissa", "rslora": True},
    "olora": {"init": "olora"},
}
BESIDE = {"adapter": {"bottleneck": 8}, "prefix": {"virtual_tokens": 3}, "prompt": {"virtual_tokens": 3}}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_base(tmp_path_factory.mktemp("base"))


def adapt(base: Path, method: Any, **options: Any) -> network.Network:
    made = network.load(base, tiny.CONTEXT)
    made.relabel(sorted(tiny.SAYS), seed=0)
    made.adapt(method, MethodOptions(**options), seed=3)
    return made


def train(made: network.Network, steps: int = 3) -> None:
    """A few steps, high enough that every number moves."""
    examples = classify.examples(tiny.frame(60), made, TaskOptions())
    adam = torch.optim.AdamW([p for p in made.parameters() if p.requires_grad], lr=1e-2)
    for step in range(steps):
        torch.autograd.backward(classify.losses(made, examples, range(step * 8, step * 8 + 8)).sum())
        adam.step()
        adam.zero_grad()


def moved(base: Path, made: network.Network) -> set[str]:
    """Names of the encoder's weights, as the base has them, that are no longer the base's."""
    before = {k: v for k, v in load_file(base / "model.safetensors").items() if not k.startswith("pooler.")}
    with methods.apart(made.adapted):
        after = made.encoder.state_dict()
        return {name for name, weight in before.items() if not torch.equal(weight, after[name])}


def saved(made: network.Network, folder: Path) -> network.Network:
    folder.mkdir()
    network.save(made, folder)
    return network.load(folder)


@torch.no_grad()
def outputs(made: network.Network) -> Tensor:
    found: Tensor = made(IDS, MASK)
    return found


@pytest.mark.parametrize("options", [*SETTINGS.values()], ids=[*SETTINGS])
def test_lora_that_was_merged_and_saved_answers_as_before(base: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    made = adapt(base, "lora", **options)
    train(made)
    before = outputs(made)
    after = saved(made, tmp_path / "model")
    assert after.adapted is None
    torch.testing.assert_close(outputs(after), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [*SETTINGS.values()], ids=[*SETTINGS])
def test_peft_loads_our_lora_on_the_base_and_gets_the_same_states(
    base: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    made = adapt(base, "lora", **options)
    train(made)
    with torch.no_grad():
        states = made.encoder(input_ids=IDS, attention_mask=MASK).last_hidden_state
    saved(made, tmp_path / "model")
    theirs = theirs_of(base, tmp_path / "model" / "adapter")
    torch.testing.assert_close(theirs, states, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["prefix", "prompt"])
def test_peft_loads_our_learned_tokens_and_gets_the_same_states(base: Path, tmp_path: Path, method: str) -> None:
    made = adapt(base, method, virtual_tokens=3)
    train(made)
    assert made.adapted is not None
    with torch.no_grad():
        states = made.adapted.states(IDS, MASK)
    saved(made, tmp_path / "model")
    theirs = theirs_of(base, tmp_path / "model" / "adapter")[:, -IDS.shape[1] :]
    torch.testing.assert_close(theirs, states, rtol=1e-4, atol=1e-5)


def theirs_of(base: Path, adapter: Path) -> Tensor:
    """The base's states with an adapter as a user of peft loads it; every warning of a missing weight is an error."""
    with network.quiet(), low_rank.quiet(), torch.no_grad():
        model = peft.PeftModel.from_pretrained(transformers.AutoModel.from_pretrained(base).eval(), str(adapter))
        found: Tensor = model.eval()(input_ids=IDS, attention_mask=MASK).last_hidden_state
        return found


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"use_rslora": True}], ids=["lora", "dora", "rslora"])
def test_a_base_with_peft_s_own_adapter_beside_it_is_loaded_with_it(
    base: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    folder = tiny.write_base(tmp_path / "base")
    with network.quiet(), low_rank.quiet():
        config = peft.LoraConfig(
            r=3, lora_alpha=5, target_modules=["query", "value"], init_lora_weights=False, **options
        )
        model = peft.get_peft_model(transformers.AutoModel.from_pretrained(folder).eval(), config)
        model.save_pretrained(str(folder / "adapter"))
        with torch.no_grad():
            theirs = model.eval()(input_ids=IDS, attention_mask=MASK).last_hidden_state
    with torch.no_grad():
        ours = network.load(folder, 8).encoder(input_ids=IDS, attention_mask=MASK).last_hidden_state
        without = network.load(base, 8).encoder(input_ids=IDS, attention_mask=MASK).last_hidden_state
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(ours, without, atol=1e-3)


@pytest.mark.parametrize(("method", "options"), BESIDE.items(), ids=[*BESIDE])
def test_what_cannot_be_merged_is_saved_beside_the_untouched_base(
    base: Path, tmp_path: Path, method: str, options: dict[str, Any]
) -> None:
    made = adapt(base, method, **options)
    train(made)
    before = outputs(made)
    after = saved(made, tmp_path / "model")
    torch.testing.assert_close(outputs(after), before, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(outputs(made), before, rtol=0, atol=0)  # saving took nothing out for good
    stored, own = load_file(tmp_path / "model" / "model.safetensors"), load_file(base / "model.safetensors")
    assert stored.keys() == {name for name in own if not name.startswith("pooler.")}
    assert all(torch.equal(stored[name], own[name]) for name in stored)


@pytest.mark.parametrize(("method", "options"), BESIDE.items(), ids=[*BESIDE])
def test_what_cannot_be_merged_is_exported_with_the_network(
    base: Path, tmp_path: Path, method: str, options: dict[str, Any]
) -> None:
    made = adapt(base, method, **options)
    train(made)
    loaded = network.Answering(saved(made, tmp_path / "model"))
    quantise.save(quantise.export(loaded.network), tmp_path / "model")
    rows = loaded.encode(tiny.frame(20)["text"].to_list())
    np.testing.assert_allclose(openvino.load(tmp_path / "model").run(rows), loaded.run(rows), atol=1e-5)


@pytest.mark.parametrize(("method", "options"), [*BESIDE.items(), ("lora", {})], ids=[*BESIDE, "lora"])
def test_the_base_does_not_move_while_something_else_learns(base: Path, method: str, options: dict[str, Any]) -> None:
    made = adapt(base, method, **options)
    before = outputs(made)
    train(made)
    assert not torch.allclose(outputs(made), before, atol=1e-3)
    names = {n for n, p in made.named_parameters() if p.requires_grad and not n.startswith("head.")}
    assert names
    assert all(torch.isfinite(p).all() for p in made.parameters())
    if method == "lora":
        frozen = {n.replace(".base_layer", ""): p for n, p in made.encoder.named_parameters() if n not in names}
        own = load_file(base / "model.safetensors")
        assert all(torch.equal(p, own[n]) for n, p in frozen.items() if n in own)
    else:
        assert moved(base, made) == set()


def test_head_trains_nothing_of_the_encoder_and_bitfit_nothing_but_biases(base: Path) -> None:
    head, bitfit = adapt(base, "head"), adapt(base, "bitfit")
    for made in (head, bitfit):
        train(made)
    assert moved(base, head) == set()
    biases = {name for name in load_file(base / "model.safetensors") if name.endswith("bias") and "pooler" not in name}
    keys = {name for name in biases if ".key." in name}  # a key's bias moves no answer: softmax takes no notice of it
    assert biases - keys <= moved(base, bitfit) <= biases


@pytest.mark.parametrize("method", ["lora", *BESIDE])
def test_what_was_put_in_changes_nothing_at_first_except_learned_tokens(base: Path, method: str) -> None:
    plain, made = adapt(base, "full"), adapt(base, method)
    if method in ("prefix", "prompt"):
        assert not torch.allclose(outputs(made), outputs(plain), atol=1e-4)
    else:
        torch.testing.assert_close(outputs(made), outputs(plain), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["lora", *BESIDE])
def test_the_same_seed_puts_in_the_same_numbers_and_leaves_the_random_state(base: Path, method: str) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = adapt(base, method)
    assert torch.equal(torch.rand(1), expected)
    second = adapt(base, method)
    for (name, one), (_, other) in zip(first.named_parameters(), second.named_parameters(), strict=True):
        assert torch.equal(one, other), name


@settings(max_examples=15, deadline=None)
@given(
    rank=st.integers(1, 6),
    alpha=st.integers(1, 64),
    rslora=st.booleans(),
    dora=st.booleans(),
    targets=st.sets(st.sampled_from(["query", "key", "attention.output.dense", "intermediate.dense"]), min_size=1),
    seed=st.integers(0, 999),
)
def test_merged_equals_unmerged_for_any_low_rank_change(
    base: Path, rank: int, alpha: int, rslora: bool, dora: bool, targets: set[str], seed: int
) -> None:
    made = adapt(base, "lora", rank=rank, alpha=alpha, rslora=rslora, dora=dora, targets=tuple(sorted(targets)))
    assert made.adapted is not None
    random = torch.Generator().manual_seed(seed)
    for parameter in made.adapted.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=random)
    before = outputs(made)
    assert made.adapted.fold()
    assert not any("lora" in name for name in made.state_dict())
    torch.testing.assert_close(outputs(made), before, rtol=1e-4, atol=2e-5)


def test_an_adapter_of_a_causal_model_has_the_names_that_serving_engines_look_for(tmp_path: Path) -> None:
    """vLLM takes ``base_model.model.<module>.lora_A|lora_B.weight``, and reads r and alpha."""
    config = transformers.LlamaConfig(
        vocab_size=30, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    put = methods.adapt(model, model.model.layers, "lora", MethodOptions(rank=4), task_type=methods.CAUSAL)
    assert put is not None
    adapted.write(put, tmp_path / "adapter")
    written, tensors = adapted.read(tmp_path / "adapter")
    lasts = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert set(written["target_modules"]) == lasts
    assert (written["r"], written["lora_alpha"], written["bias"], written["task_type"]) == (4, 16, "none", "CAUSAL_LM")
    for name in tensors:
        start, module, which = name[: len("base_model.model.")], name.split(".")[-3], name.split(".", 2)[2]
        assert start == "base_model.model." and module in lasts and which.rsplit(".", 2)[1] in ("lora_A", "lora_B")
    assert len(tensors) == 2 * 2 * 7


def test_the_same_adapter_is_the_same_bytes_and_names_no_path(base: Path, tmp_path: Path) -> None:
    files = []
    for name in ("one", "two"):
        network_folder = tmp_path / name
        saved(adapt(base, "lora"), network_folder)
        files.append([(network_folder / "adapter" / f).read_bytes() for f in (adapted.CONFIG, adapted.WEIGHTS)])
    assert files[0] == files[1]
    assert str(base).encode() not in files[0][0]


def test_a_base_that_holds_an_adapter_goes_on_with_it_and_with_no_other(base: Path, tmp_path: Path) -> None:
    first = adapt(base, "adapter")
    train(first)
    second = saved(first, tmp_path / "first")
    second.adapt("adapter", MethodOptions(), seed=0)
    before = outputs(second)
    torch.testing.assert_close(before, outputs(first), rtol=1e-5, atol=1e-6)
    train(second)
    assert not torch.allclose(outputs(second), before, atol=1e-3)
    assert moved(base, second) == set()
    with pytest.raises(SettingError, match="adapted with 'adapter'"):
        network.load(tmp_path / "first").adapt("lora", MethodOptions(), seed=0)


def test_a_model_that_lost_its_adapter_is_refused(base: Path, tmp_path: Path) -> None:
    saved(adapt(base, "prompt"), tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / "adapter")
    with pytest.raises(ArtifactError, match="adapter is missing"):
        network.load(tmp_path / "model")


def test_lora_again_on_a_merged_model_starts_from_what_it_learned(base: Path, tmp_path: Path) -> None:
    first = adapt(base, "lora")
    train(first)
    second = saved(first, tmp_path / "first")
    second.adapt("lora", MethodOptions(), seed=0)
    torch.testing.assert_close(outputs(second), outputs(first), rtol=1e-4, atol=1e-5)


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "a target that is not there": ("lora", {"targets": ("qurey",)}, "did you mean 'query'"),
    "dora on pissa": ("lora", {"dora": True, "init": "pissa"}, "dora does not go with"),
    "an odd orthogonal rank": ("lora", {"rank": 3, "init": "orthogonal"}, "rank = 4"),
    "no room for tokens": ("prompt", {"virtual_tokens": 64}, "64 positions"),
}


@pytest.mark.parametrize(("method", "options", "says"), REFUSED.values(), ids=[*REFUSED])
def test_options_that_do_not_fit_are_refused(base: Path, method: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingError, match=says):
        adapt(base, method, **options)


def _missing(folder: Path) -> None:
    tensors = load_file(folder / adapted.WEIGHTS)
    tensors.pop(next(iter(tensors)))
    save_file(tensors, folder / adapted.WEIGHTS)


def _of_another_shape(folder: Path) -> None:
    tensors = {name: torch.zeros(7, 7) for name in load_file(folder / adapted.WEIGHTS)}
    save_file(tensors, folder / adapted.WEIGHTS)


def _not_finite(folder: Path) -> None:
    tensors = {name: t * float("nan") for name, t in load_file(folder / adapted.WEIGHTS).items()}
    save_file(tensors, folder / adapted.WEIGHTS)


def _pickled(folder: Path) -> None:
    (folder / adapted.WEIGHTS).unlink()
    torch.save({}, folder / "adapter_model.bin")


def _of_another_type(folder: Path) -> None:
    config = json.loads((folder / adapted.CONFIG).read_text())
    (folder / adapted.CONFIG).write_text(json.dumps(config | {"peft_type": "OSF"}))


def _not_json(folder: Path) -> None:
    (folder / adapted.CONFIG).write_text("[")


DAMAGES = [_missing, _of_another_shape, _not_finite, _pickled, _of_another_type, _not_json]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("method", ["lora", "adapter", "prompt"])
def test_a_damaged_adapter_is_refused_cases_40_and_41(
    base: Path, tmp_path: Path, method: str, damage: Callable[[Path], None]
) -> None:
    made = adapt(base, method)
    folder = tiny.write_base(tmp_path / "base")
    if made.adapted is not None:
        adapted.write(made.adapted, folder / "adapter")
    damage(folder / "adapter")
    with pytest.raises(ArtifactError):
        network.load(folder, 8)
