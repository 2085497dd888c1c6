"""Weights as llama.cpp keeps them (GGUF) as a causal language model of transformers that can be trained, in float32.

transformers reads such files as well, and takes half a minute for a small one; it names 272 tensors with a table that
it builds 397 times. Its reader of the container and its tables of block formats are used here.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from torch import Tensor
from transformers.integrations.gguf import dequant, gguf_tokenizer_mapping, reader

from feilun.errors import ArtifactError

FAMILIES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}  # GGUF's name: the configuration's in transformers
_SETTINGS = {
    "context_length": "max_position_embeddings",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "embedding_length": "hidden_size",
    "attention.key_length": "head_dim",
    "rope.freq_base": "rope_theta",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
_OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_INSIDE = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_PLAIN = {0: torch.float32, 1: torch.float16, 30: torch.bfloat16}  # numbers of GGUF's types that are not blocks


def load(place: Path) -> tuple[Any, Tokenizer, dict[str, Any]]:
    """The model in float32, its tokenizer, and what the file says of that: chat_template, bos_token, eos_token.

    Raises:
        ArtifactError: the file is damaged or not GGUF, or its architecture or one of its types is not known here.
    """
    try:
        header = reader.GgufHeader.from_file(str(place))
        metadata, _ = reader.read_gguf_metadata(str(place))
        config = _configuration(metadata, {info.name for info in header.tensors}, place)
        _, words, about = gguf_tokenizer_mapping.get_gguf_tokenizer(str(place))
        tokenizer, _ = gguf_tokenizer_mapping.convert_gguf_tokenizer(header.architecture, words)
        config.vocab_size = len(words["tokens"])
        config.bos_token_id, config.eos_token_id = (
            metadata.get(f"tokenizer.ggml.{n}_token_id") for n in ("bos", "eos")
        )
        tensors = _tensors(header, config)
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        found = model.load_state_dict(tensors, strict=False, assign=True)
    except (OSError, ValueError, KeyError, IndexError, RuntimeError, TypeError, ArithmeticError, struct.error) as error:
        raise ArtifactError("the model cannot be read as GGUF", where=str(place), hint=str(error)[-200:]) from error
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    missing = [*(set(found.missing_keys) - tied), *found.unexpected_keys]
    if missing:
        raise ArtifactError(f"weights are missing or unknown: {', '.join(sorted(missing)[:3])}", where=str(place))
    model.tie_weights()
    _compute_buffers(model, config)
    return model, tokenizer, about


def _configuration(metadata: dict[str, Any], names: set[str], place: Path) -> Any:
    family = metadata["general.architecture"]
    if family not in FAMILIES:
        hint = f"known: {', '.join(FAMILIES)}; for others use the model's safetensors"
        raise ArtifactError(
            f"GGUF models of the architecture '{family}' cannot be trained", where=str(place), hint=hint
        )
    found = {name: metadata[f"{family}.{key}"] for key, name in _SETTINGS.items() if f"{family}.{key}" in metadata}
    there = {match[1] for name in names if (match := re.match(r"blk\.(\d+)\.", name))}
    if found["num_hidden_layers"] != len(there):  # before as many are built
        raise ValueError(f"it says that it has {found['num_hidden_layers']} layers, and there are {len(there)}")
    found.setdefault("head_dim", found["hidden_size"] // found["num_attention_heads"])
    theta = found.pop("rope_theta", 10000.0)
    return transformers.AutoConfig.for_model(
        FAMILIES[family],
        **found,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
        tie_word_embeddings="output.weight" not in names,
    )


def _tensors(header: Any, config: Any) -> dict[str, Tensor]:
    data = torch.from_file(header.path, size=Path(header.path).stat().st_size, dtype=torch.uint8)
    found = {}
    for info in header.tensors:
        name = _name(info.name)
        if name is None:  # a table of rotations, which the model computes itself
            continue
        start = header.data_start + info.offset
        raw = data[start : start + info.nbytes]
        if info.ggml_type in _PLAIN:
            weight = raw.clone().view(_PLAIN[info.ggml_type]).float()
        else:
            weight = dequant.dequantize(raw.view(info.shape[0], -1), info.ggml_type)
        weight = weight.reshape(info.shape)
        if header.architecture == "llama" and ".attn_q." in info.name:
            weight = _in_halves(weight, config.num_attention_heads)
        if header.architecture == "llama" and ".attn_k." in info.name:
            weight = _in_halves(weight, config.num_key_value_heads)
        found[name] = weight.contiguous()
    return found


def _name(name: str) -> str | None:
    match = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)", name)
    if match is None or match[2] == "rope_freqs":
        return None
    if match[1] is None:
        return f"{_OUTSIDE[match[2]]}.{match[3]}"
    return f"model.layers.{match[1]}.{_INSIDE[match[2]]}.{match[3]}"


def _in_halves(weight: Tensor, heads: int) -> Tensor:
    """Rotated pairs stand side by side in GGUF's llama, half a head apart in transformers'."""
    return weight.view(heads, -1, 2, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)


def _compute_buffers(model: Any, config: Any) -> None:
    """What no file holds: the rotary frequencies."""
    rotary = type(model.model.rotary_emb)(config)
    model.model.rotary_emb = rotary
