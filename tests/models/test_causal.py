from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from gguf import GGUFWriter
from hypothesis import given, settings
from hypothesis import strategies as st

from feilun.errors import ArtifactError
from feilun.models import blocks, causal, chat, decoding, network
from feilun.models.adapting.options import MethodOptions
from tests.models import tiny_causal

ROWS = st.lists(st.lists(st.integers(3, 30), min_size=1, max_size=40), min_size=1, max_size=5)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> causal.Causal:
    return tiny_causal.load(tmp_path_factory.mktemp("causal")).double()


def alone(model: causal.Causal, row: list[int]) -> torch.Tensor:
    """The surprise of each token but the first, as transformers itself computes it."""
    with network.quiet():
        logits = model.encoder(input_ids=torch.tensor([row])).logits[0, :-1]
    return torch.nn.functional.cross_entropy(logits, torch.tensor(row[1:], dtype=torch.int64), reduction="none")


@settings(max_examples=25, deadline=None)
@given(rows=ROWS)
def test_rows_side_by_side_have_the_loss_of_each_alone_and_no_token_is_lost_or_doubled(
    model: causal.Causal, rows: list[list[int]]
) -> None:
    lost, numbers = model.surprise(rows, [[True] * len(row) for row in rows])
    assert numbers.tolist() == [i for i, row in enumerate(rows) for _ in row[1:]]  # all but each row's first, once
    wanted = torch.cat([alone(model, row) for row in rows])
    torch.testing.assert_close(lost.to(wanted.dtype), wanted, atol=1e-6, rtol=1e-6)


@settings(max_examples=10, deadline=None)
@given(rows=ROWS.filter(lambda rows: any(len(row) > 1 for row in rows)), data=st.data())
def test_rows_side_by_side_have_the_gradient_of_each_alone(
    model: causal.Causal, rows: list[list[int]], data: st.DataObject
) -> None:
    counts = [data.draw(st.lists(st.booleans(), min_size=len(row), max_size=len(row))) for row in rows]
    flags = torch.tensor([c for which in counts for c in which[1:]], dtype=torch.bool)
    weights = list(model.parameters())
    wanted = torch.autograd.grad(
        torch.cat([alone(model, row) for row in rows])[flags].sum(), weights, materialize_grads=True, allow_unused=True
    )
    lost, _ = model.surprise(rows, counts)
    found = torch.autograd.grad(lost.sum(), weights, materialize_grads=True, allow_unused=True)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_long_rows_are_read_tile_by_tile_and_a_window_hides_what_is_far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "TILE", 4)
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, n, 11, 8, dtype=torch.float64, requires_grad=True) for n in (4, 2, 2))

    def ours(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int = 0) -> torch.Tensor:
        return blocks.attend(None, q, k, v, None, lengths=[11], scaling=0.3, sliding_window=window)[0]

    assert torch.autograd.gradcheck(ours, (query, key, value))
    places = torch.arange(11)
    near = (places[:, None] >= places) & (places[:, None] - places < 3)
    wanted = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=near, scale=0.3, enable_gqa=True
    )
    torch.testing.assert_close(ours(query, key, value, 3), wanted.transpose(1, 2), atol=1e-6, rtol=1e-6)


def test_the_loss_over_words_is_that_of_the_whole_table_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "LOGITS", 3 * 20)
    torch.manual_seed(0)
    states = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(20, 5, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(20, (7,))
    scale = torch.rand(7, dtype=torch.float64)
    ours = torch.autograd.grad((blocks.surprise(states, weight, targets) * scale).sum(), (states, weight))
    whole = torch.nn.functional.cross_entropy(states @ weight.t(), targets, reduction="none")
    for one, other in zip(ours, torch.autograd.grad((whole * scale).sum(), (states, weight)), strict=True):
        torch.testing.assert_close(one, other)


def test_a_saved_model_is_the_same_to_us_and_to_transformers(tmp_path: Path) -> None:
    made = tiny_causal.load(tmp_path / "base")
    made.decided = {"answer_tokens": 5}
    (tmp_path / "saved").mkdir()
    causal.save(made, tmp_path / "saved")
    again = causal.load(tmp_path / "saved")
    assert (again.context, again.decided, again.chat) == (tiny_causal.CONTEXT, {"answer_tokens": 5}, made.chat)
    with network.quiet():
        theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    ids = torch.tensor([[1, 5, 9, 4]])
    wanted = made(ids, torch.ones_like(ids))
    torch.testing.assert_close(again(ids, torch.ones_like(ids)), wanted)
    torch.testing.assert_close(theirs(input_ids=ids).logits, wanted)


def test_what_lora_leaves_as_it_is_is_narrow_while_it_is_trained_and_saved_as_it_was_then(tmp_path: Path) -> None:
    made = tiny_causal.load(tmp_path / "base")
    made.adapt("lora", MethodOptions(), 0)
    with torch.autocast("cpu", torch.bfloat16):
        lost, _ = made.surprise([[1, 5, 9, 4]], [[True] * 4])
    lost.sum().backward()
    kinds = {(p.requires_grad, p.dtype) for p in made.encoder.parameters()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}
    assert all(torch.isfinite(p.grad).all() for p in made.parameters() if p.grad is not None)
    assert len(decoding.Writing(made).write([[1, 5]])) == 1  # also outside of autocast
    ids = torch.tensor([[1, 5, 9, 4]])
    trained = causal.load(tmp_path / "base").encoder
    for parameter in trained.parameters():
        parameter.data = parameter.data.to(torch.bfloat16).float()
    (tmp_path / "saved").mkdir()
    causal.save(made, tmp_path / "saved")
    torch.testing.assert_close(causal.load(tmp_path / "saved").encoder(ids).logits, trained(ids).logits)


def test_a_model_without_a_template_gets_a_plain_one(tmp_path: Path) -> None:
    made = tiny_causal.load(tmp_path, template=None)
    assert made.chat.prompts([tiny_causal.ask("a")]) == ["user: a\nassistant: "]
    assert made.chat.specials == {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}


@pytest.mark.parametrize("damage", ["cut", "strange", "pickle"])
def test_damaged_weights_are_refused(tmp_path: Path, damage: str) -> None:
    """RELIABILITY 40 and 41."""
    tiny_causal.write_base(tmp_path)
    place = tmp_path / "model.safetensors"
    whole = place.read_bytes()
    place.write_bytes({"cut": whole[: len(whole) // 2], "strange": b"\0" * 99, "pickle": b"\x80\x04K\x01."}[damage])
    with pytest.raises(ArtifactError, match="not safetensors"):
        causal.load(tmp_path)


def write_gguf(source: Path, place: Path, *, drop: str = "") -> None:
    """The tiny Llama as llama.cpp would hold it."""
    config = json.loads((source / "config.json").read_text("utf-8"))
    made = causal.load(source)
    words = sorted(made.tokenizer.get_vocab().items(), key=lambda w: w[1])
    writer = GGUFWriter(str(place), "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([w for w, _ in words])
    writer.add_token_types([3 if w in tiny_causal.SPECIALS else 1 for w, _ in words])
    writer.add_token_merges(["q u"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(tiny_causal.TEMPLATE)
    inside = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    }  # fmt: skip
    outside = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    tensors: dict[str, torch.Tensor] = {}
    for name, weight in made.encoder.state_dict().items():
        if name == "lm_head.weight" or (drop and drop in name):
            continue
        theirs = outside.get(name)
        if theirs is None:
            number, rest = name.removeprefix("model.layers.").split(".", 1)
            theirs = f"blk.{number}.{inside[rest.removesuffix('.weight')]}.weight"
        tensors[theirs] = weight
        for kind, heads in (("attn_q.", "num_attention_heads"), ("attn_k.", "num_key_value_heads")):
            if kind in theirs:
                halves = weight.view(config[heads], 2, -1, weight.shape[1])
                tensors[theirs] = halves.transpose(1, 2).reshape(weight.shape)
    for theirs, weight in tensors.items():
        writer.add_tensor(theirs, weight.numpy().copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_is_the_model_that_was_written(tmp_path: Path) -> None:
    source = tiny_causal.write_base(tmp_path / "source")
    (tmp_path / "gguf").mkdir()
    write_gguf(source, tmp_path / "gguf" / causal.GGUF)
    made, original = causal.load(tmp_path / "gguf"), causal.load(source)
    ids = torch.tensor([[1, 5, 9, 4, 17]])
    torch.testing.assert_close(made(ids, torch.ones_like(ids)), original(ids, torch.ones_like(ids)))
    told = [tiny_causal.ask("b", "yz")]
    assert made.prompts(told) == original.prompts(told)
    assert made.stops == original.stops == {2}


def test_a_gguf_file_without_a_weight_or_cut_short_is_refused(tmp_path: Path) -> None:
    """RELIABILITY 40."""
    source = tiny_causal.write_base(tmp_path / "source")
    place = tmp_path / causal.GGUF
    write_gguf(source, place, drop="layers.1.mlp.up_proj")
    with pytest.raises(ArtifactError, match=r"missing or unknown: model\.layers\.1\.mlp\.up_proj\.weight"):
        causal.load(tmp_path)
    place.write_bytes(place.read_bytes()[:2000])
    with pytest.raises(ArtifactError, match="cannot be read as GGUF"):
        causal.load(tmp_path)


def test_special_tokens_are_read_in_each_of_their_forms() -> None:
    assert chat.specials({"eos_token": {"content": "<e>"}, "pad_token": "<p>", "add_bos_token": True}) == {
        "eos_token": "<e>",
        "pad_token": "<p>",
    }
