"""Folders that somebody else wrote: what cannot be used is refused by name, before it costs memory or time."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import polars as pl
import pytest
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

import feilun.finetune.step  # noqa: F401 - registers the step
from feilun import tasks
from feilun.errors import ArtifactError, SettingError
from feilun.models import building, causal, gguf, network, tokens
from feilun.models.adapting import adapted, low_rank
from feilun.models.adapting.options import MethodOptions
from feilun.pipeline.kinds import Model
from tests.models import tiny, tiny_causal

SIZES: dict[str, Any] = {
    "vocab_size": len(tiny.WORDS),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}


def written(folder: Path, config: Any) -> Path:
    """A base of another family, with the tiny tokenizer."""
    tiny.write_base(folder)
    (folder / "model.safetensors").unlink()
    with torch.random.fork_rng(), network.quiet():
        torch.manual_seed(0)
        transformers.AutoModel.from_config(config).save_pretrained(folder)
    return folder


def say(folder: Path, name: str = "config.json", **told: Any) -> Path:
    """Let the folder's configuration say something else."""
    place = folder / name
    place.write_text(json.dumps((json.loads(place.read_text()) if place.exists() else {}) | told))
    return folder


@pytest.mark.parametrize(
    ("write", "load"),
    [(tiny.write_base, network.load), (tiny_causal.write_base, causal.load)],
    ids=["encoder", "causal"],
)
def test_an_adapter_at_the_root_of_a_model_is_refused_with_where_it_belongs(
    tmp_path: Path, write: Callable[[Path], Path], load: Callable[[Path, int], Any]
) -> None:
    """transformers would apply it by itself, and then save nothing but the adapter."""
    folder = say(write(tmp_path), "adapter_config.json", peft_type="LORA", r=2, target_modules=["query"])
    with pytest.raises(ArtifactError, match="adapter") as raised:
        load(folder, 32)
    assert "adapter/" in str(raised.value.hint)


def test_a_model_that_was_saved_without_weights_is_an_error(tmp_path: Path) -> None:
    folder = tiny.write_base(tmp_path)
    building.check_saved(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ArtifactError, match="without its configuration or its weights"):
        building.check_saved(folder)


HOSTILE: dict[str, dict[str, Any]] = {
    "many layers": {"num_hidden_layers": 20_000},
    "more layers than a list can have": {"num_hidden_layers": 10**12},
    "wide": {"hidden_size": 10**9, "num_attention_heads": 1},
    "many words": {"vocab_size": 10**8},
    "many positions": {"max_position_embeddings": 10**9},
    "many labels": {"num_labels": 10**9},
    "layers as a word": {"num_hidden_layers": "two"},
    "labels as a list": {"id2label": ["a"]},
    "ours as a list": {"feilun": [1]},
    "ours decided as a list": {"feilun": {"decided": [1]}},
    "a head that is not known": {"feilun": {"head": "nope"}},
    "a head that is a list": {"feilun": {"head": [1]}},
    "heads that do not divide": {"num_attention_heads": 3},
    "no heads": {"num_attention_heads": 0},
    "less than nothing": {"hidden_size": -1},
    "an activation that is not known": {"hidden_act": "nope"},
    "a family that is not known": {"model_type": "nope"},
    "quantised": {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
}


@pytest.mark.parametrize("told", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_configuration_is_refused_at_once(tmp_path: Path, told: dict[str, Any]) -> None:
    folder = say(tiny.write_base(tmp_path), **told)
    if "decided" in told.get("feilun", {}) or "head" in told.get("feilun", {}):
        save_file({"weight": torch.zeros(2, 32), "bias": torch.zeros(2)}, folder / "head.safetensors")
        say(folder, id2label={"0": "a", "1": "b"})
    started = time.monotonic()
    with pytest.raises(ArtifactError):
        network.load(folder, 8)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("told", [{"num_hidden_layers": 20_000}, {"feilun": [1]}, {"feilun": {"context": "x"}}])
def test_so_is_that_of_a_causal_model(tmp_path: Path, told: dict[str, Any]) -> None:
    folder = say(tiny_causal.write_base(tmp_path), **told)
    with pytest.raises(ArtifactError):
        causal.load(folder)


LORA = {"peft_type": "LORA", "r": 2, "target_modules": ["query"]}
DOWN = {"base_model.model.encoder.layer.0.attention.self.query.lora_A.weight": torch.zeros(2, 32)}
SMALL = {"base_model.model.encoder.layer.0.output.dense.down.weight": torch.zeros(2, 32)}
WORDS = {"prompt_embeddings": torch.zeros(1, 32)}
PROMPT = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 1, "token_dim": 32, "num_transformer_submodules": 1}
ADAPTERS: dict[str, tuple[dict[str, Any], dict[str, torch.Tensor]]] = {
    "a huge rank": ({**LORA, "r": 10**7}, DOWN),
    "no rank": ({**LORA, "r": 0}, DOWN),
    "a rank as a word": ({**LORA, "r": "x"}, DOWN),
    "a huge rank of one module": ({**LORA, "rank_pattern": {"query": 10**7}}, DOWN),
    "a pattern that is a list": ({**LORA, "rank_pattern": [1]}, DOWN),
    "a type that is a list": ({**LORA, "peft_type": ["LORA"]}, DOWN),
    "modules as a number": ({**LORA, "modules_to_save": 3}, DOWN),
    "targets as a number": ({**LORA, "target_modules": 3}, DOWN),
    "layers again and again": ({**LORA, "layer_replication": [[0, 2], [0, 2]]}, DOWN),
    "a huge bottleneck": ({"peft_type": "BOTTLENECK", "size": 10**9, "target_modules": ["output.dense"]}, SMALL),
    "a negative bottleneck": ({"peft_type": "BOTTLENECK", "size": -1, "target_modules": ["output.dense"]}, SMALL),
    "a bottleneck as a word": ({"peft_type": "BOTTLENECK", "size": "x", "target_modules": ["output.dense"]}, SMALL),
    "many learned tokens": ({**PROMPT, "num_virtual_tokens": 10**9}, WORDS),
    "wide learned tokens": ({**PROMPT, "token_dim": 10**9}, WORDS),
    "many times the learned tokens": ({**PROMPT, "num_transformer_submodules": 10**9}, WORDS),
}


@pytest.mark.parametrize(("told", "tensors"), ADAPTERS.values(), ids=ADAPTERS.keys())
def test_a_hostile_adapter_is_refused_before_it_is_built(
    tmp_path: Path, told: dict[str, Any], tensors: dict[str, torch.Tensor]
) -> None:
    folder = tiny.write_base(tmp_path)
    (folder / adapted.FOLDER).mkdir()
    say(folder / adapted.FOLDER, adapted.CONFIG, **told)
    save_file(tensors, folder / adapted.FOLDER / adapted.WEIGHTS)
    started = time.monotonic()
    with pytest.raises(ArtifactError):
        network.load(folder, 8)
    assert time.monotonic() - started < 10


def test_code_that_an_adapter_names_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil_module.py").write_text(f"open({str(tmp_path / 'sentinel')!r}, 'w')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = tiny.write_base(tmp_path / "base")
    (folder / adapted.FOLDER).mkdir()
    say(folder / adapted.FOLDER, adapted.CONFIG, **LORA, megatron_config={"a": 1}, megatron_core="evil_module")
    save_file(DOWN, folder / adapted.FOLDER / adapted.WEIGHTS)
    with pytest.raises(ArtifactError, match="names code"):
        network.load(folder, 8)
    assert not (tmp_path / "sentinel").exists()


def test_an_adapter_with_a_rank_of_its_own_for_some_modules_is_still_loaded(tmp_path: Path) -> None:
    folder = tiny.write_base(tmp_path)
    with network.quiet(), low_rank.quiet():
        model = transformers.AutoModel.from_pretrained(folder)
        config = peft.LoraConfig(r=2, target_modules=["query", "value"], rank_pattern={"value": 4})
        peft.get_peft_model(model, config).save_pretrained(folder / adapted.FOLDER)
    network.load(folder, 8)


KIN = {
    "roberta": transformers.RobertaConfig(**SIZES, max_position_embeddings=42, pad_token_id=1),
    "mpnet": transformers.MPNetConfig(**SIZES, max_position_embeddings=42),
}


@pytest.mark.parametrize("config", KIN.values(), ids=KIN.keys())
def test_roberta_and_its_kin_read_as_many_tokens_as_are_left_after_the_padding_s_number(
    tmp_path: Path, config: Any
) -> None:
    folder = written(tmp_path, config)
    made = network.load(folder, 40)
    assert made.positions == 40
    ids = torch.full((1, 40), 5)
    assert made.states(ids, torch.ones_like(ids)).isfinite().all()
    with pytest.raises((IndexError, RuntimeError), match="out of "):
        made.states(torch.full((1, 41), 5), torch.ones(1, 41, dtype=torch.long))


def test_a_context_that_only_roberta_s_configuration_has_is_refused_with_the_one_that_fits(tmp_path: Path) -> None:
    bench = tiny.Bench(tmp_path)
    base = bench.model(written(tmp_path / "base", KIN["roberta"]), format="safetensors")
    with pytest.raises(SettingError) as raised:
        bench.run("finetune", Model, {"epochs": 1, "context": 42}, base=base, examples=bench.examples())
    assert raised.value.hint == "use context = 40 or less"


OTHERS = {
    "albert": transformers.AlbertConfig(**SIZES, embedding_size=16, max_position_embeddings=64),
    "xlnet": transformers.XLNetConfig(vocab_size=len(tiny.WORDS), d_model=32, n_layer=2, n_head=2, d_inner=64),
    "t5": transformers.T5Config(
        vocab_size=len(tiny.WORDS), d_model=32, num_layers=2, num_heads=2, d_ff=64, d_kv=16, decoder_start_token_id=0
    ),
}


@pytest.mark.parametrize("config", OTHERS.values(), ids=OTHERS.keys())
def test_a_kind_of_base_that_cannot_be_tuned_is_named(tmp_path: Path, config: Any) -> None:
    folder = written(tmp_path, config)
    with pytest.raises(ArtifactError, match=f"this kind of base .{config.model_type}. cannot be tuned"):
        made = network.load(folder, 8)
        made.adapt("full", MethodOptions(), 0)
        assert made.positions


def without_specials(folder: Path) -> Path:
    """A base whose tokenizer adds nothing to a text, as those of decoders."""
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(tiny.WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tiny.write_base(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_a_text_without_a_piece_is_read_as_the_tokenizer_s_first_special_token(tmp_path: Path) -> None:
    tokenizer = tokens.load_tokenizer(without_specials(tmp_path), 8)
    assert tokens.encode(tokenizer, ["film", ""]) == [[tiny.WORDS.index("film")], [0]]
    tokenizer.add_special_tokens(["[SEP]"])
    assert tokens.encode(tokenizer, ["", " "]) == [[3], [3]]


def test_an_empty_text_neither_stops_a_training_nor_is_answered_with_nan(tmp_path: Path) -> None:
    bench = tiny.Bench(tmp_path)
    base = bench.model(without_specials(tmp_path / "base"), format="safetensors")
    rows = tiny.frame(60).with_columns(text=pl.when(pl.int_range(pl.len()) == 0).then(pl.lit("")).otherwise("text"))
    tuned = bench.run("finetune", Model, {**tiny.QUICK, "epochs": 1}, base=base, examples=bench.examples(rows))
    raw = tasks.ask(tuned, pl.DataFrame({"text": ["", "the film"]})).raw
    assert all(abs(sum(scores) - 1) < 1e-5 for scores in raw)


def test_a_row_of_padding_alone_has_a_finite_answer(tmp_path: Path) -> None:
    made = network.load(tiny.write_base(tmp_path), 8)
    made.relabel(["a", "b"], 0)
    assert made.head(torch.ones(1, 3, 32), torch.zeros(1, 3, dtype=torch.long)).isfinite().all()


@pytest.mark.parametrize(("heads", "layers"), [(0, 0), (2, 30_000)], ids=["no heads", "many layers"])
def test_a_hostile_gguf_is_refused(tmp_path: Path, heads: int, layers: int) -> None:
    def name(text: str) -> bytes:
        return struct.pack("<Q", len(text)) + text.encode()

    def number(key: str, value: int) -> bytes:
        return name(key) + struct.pack("<II", 4, value)

    sizes = {"context_length": 64, "block_count": layers, "embedding_length": 32, "feed_forward_length": 64}
    sizes |= {"attention.head_count": heads, "attention.head_count_kv": 2}
    told = [name("general.architecture") + struct.pack("<I", 8) + name("llama")]
    told += [number(f"llama.{key}", value) for key, value in sizes.items()]
    tensor = name("token_embd.weight") + struct.pack("<IQQIQ", 2, 32, 2, 0, 0)
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, len(told)) + b"".join(told) + tensor
    (tmp_path / "model.gguf").write_bytes(head + bytes(-len(head) % 32) + bytes(256))
    with pytest.raises(ArtifactError, match="GGUF"):
        gguf.load(tmp_path / "model.gguf")
