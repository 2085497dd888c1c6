"""A causal network of the Llama kind as an OpenVINO graph, written down operation by operation.

Nothing is traced: the graph is the same for the same weights, whatever transformers' code looks like. It has the form
that OpenVINO's own tools know (a state for keys and one for values of each layer, in an order that ``beam_idx`` gives),
so they run it as well; ``feilun.models.paged`` lets many answers share it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import opset13 as ops

from feilun.errors import StepError
from feilun.models import causal, chat
from feilun.models.causal import Causal
from feilun.store.artifacts import canonical

KINDS = ("llama", "qwen2", "qwen3")  # model types of transformers that are built so
ROPES = ("default", "linear", "llama3")  # whose frequencies do not depend on the length of a text
_END = np.iinfo(np.int64).max
Weights = Mapping[str, NDArray[np.float32]]


def build(network: Causal) -> Any:
    """An OpenVINO model: ``input_ids``, ``attention_mask`` and ``position_ids`` (N, L), ``beam_idx`` (N,), to
    ``logits`` (N, L, V), float32.

    Raises:
        StepError: the network is not of the Llama kind.
    """
    config = network.encoder.config
    _check(network, config)
    weights = {name: value.detach().float().cpu().numpy() for name, value in network.encoder.state_dict().items()}
    free = [-1, -1]
    ids = ops.parameter(free, np.int64, name="input_ids")
    mask = ops.parameter(free, np.int64, name="attention_mask")
    positions = ops.parameter(free, np.int64, name="position_ids")
    order = ops.parameter([-1], np.int32, name="beam_idx")
    for node in (ids, mask, positions, order):
        node.output(0).set_names({node.get_friendly_name()})
    table = ops.constant(weights["model.embed_tokens.weight"])
    states = ops.gather(table, ops.convert(ids, "i32"), ops.constant(np.int32(0)))
    rotary = network.encoder.model.rotary_emb
    turns = _rotations(positions, rotary.inv_freq.float().cpu().numpy(), float(rotary.attention_scaling))
    shapes = _Shapes(config, ids, mask, order)
    sinks: list[Any] = []
    for number in range(config.num_hidden_layers):
        own = {n.removeprefix(f"model.layers.{number}."): w for n, w in weights.items() if f"layers.{number}." in n}
        states = _layer(states, own, shapes, turns, (number, sinks))
    states = _normed(states, weights["model.norm.weight"], config.rms_norm_eps)
    head = table if config.tie_word_embeddings else ops.constant(weights["lm_head.weight"])
    logits = ops.result(ops.matmul(states, head, transpose_a=False, transpose_b=True), name="logits")
    logits.output(0).set_names({"logits"})
    return openvino.Model([logits], sinks, [ids, mask, positions, order], "words")


class _Shapes:
    """What every layer needs of the configuration and of the inputs' sizes."""

    def __init__(self, config: Any, ids: Any, mask: Any, order: Any) -> None:
        self.heads: int = config.num_attention_heads
        self.kinds: int = config.num_key_value_heads
        self.size: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.small: float = config.rms_norm_eps
        self.order = order
        zero = ops.constant(np.int64(0))
        given = ops.shape_of(ids)
        self.rows = ops.gather(given, ops.constant(np.array([0])), zero)
        length = ops.gather(given, ops.constant(np.int64(1)), zero)
        whole = ops.gather(ops.shape_of(mask), ops.constant(np.int64(1)), zero)
        one = ops.constant(np.int64(1))
        keys = ops.unsqueeze(ops.range(zero, whole, one, "i64"), zero)
        queries = ops.unsqueeze(ops.range(ops.subtract(whole, length), whole, one, "i64"), one)
        earlier = ops.unsqueeze(ops.greater_equal(queries, keys), ops.constant(np.array([0, 1])))
        there = ops.unsqueeze(ops.convert(mask, "boolean"), ops.constant(np.array([1, 2])))
        self.seen = ops.logical_and(earlier, there)  # (N, 1, L, all)


def _layer(states: Any, own: Weights, shapes: _Shapes, turns: tuple[Any, Any], place: tuple[int, list[Any]]) -> Any:
    read = _normed(states, own["input_layernorm.weight"], shapes.small)
    query = _turned(_heads(read, own, "q", shapes.heads, shapes), turns, shapes.size)
    key = _turned(_heads(read, own, "k", shapes.kinds, shapes), turns, shapes.size)
    value = _heads(read, own, "v", shapes.kinds, shapes)
    number, sinks = place
    key, value = (_remembered(new, f"{number}.{what}", shapes, sinks) for new, what in ((key, "key"), (value, "value")))
    key, value = _shared(key, shapes), _shared(value, shapes)
    told = ops.scaled_dot_product_attention(query, key, value, shapes.seen)
    flat = ops.reshape(
        ops.transpose(told, ops.constant(np.array([0, 2, 1, 3]))),
        ops.constant(np.array([0, 0, shapes.heads * shapes.size])),
        special_zero=True,
    )
    states = ops.add(states, _linear(flat, own, "self_attn.o_proj"))
    read = _normed(states, own["post_attention_layernorm.weight"], shapes.small)
    gate = ops.swish(_linear(read, own, "mlp.gate_proj"))
    return ops.add(states, _linear(ops.multiply(gate, _linear(read, own, "mlp.up_proj")), own, "mlp.down_proj"))


def _linear(read: Any, own: Weights, name: str) -> Any:
    found = ops.matmul(read, ops.constant(own[f"{name}.weight"]), transpose_a=False, transpose_b=True)
    bias = own.get(f"{name}.bias")
    return found if bias is None else ops.add(found, ops.constant(bias[None, None]))


def _normed(states: Any, weight: NDArray[np.float32], small: float) -> Any:
    """x / sqrt(mean(x^2) + small) * weight."""
    square = ops.power(states, ops.constant(np.float32(2)))
    mean = ops.reduce_mean(square, ops.constant(np.array([-1])), keep_dims=True)
    root = ops.sqrt(ops.add(mean, ops.constant(np.float32(small))))
    scaled = ops.multiply(states, ops.divide(ops.constant(np.float32(1)), root))
    return ops.multiply(scaled, ops.constant(weight))


def _heads(read: Any, own: Weights, which: str, count: int, shapes: _Shapes) -> Any:
    """(N, L, H) to (N, heads, L, size)."""
    parted = ops.reshape(
        _linear(read, own, f"self_attn.{which}_proj"),
        ops.constant(np.array([0, 0, count, shapes.size])),
        special_zero=True,
    )
    if (norm := own.get(f"self_attn.{which}_norm.weight")) is not None:
        parted = _normed(parted, norm, shapes.small)
    return ops.transpose(parted, ops.constant(np.array([0, 2, 1, 3])))


def _rotations(positions: Any, frequencies: NDArray[np.float32], scaling: float) -> tuple[Any, Any]:
    """Cosines and sines of each position, (N, 1, L, size)."""
    each = ops.constant(frequencies[None, :, None])
    places = ops.convert(ops.unsqueeze(positions, ops.constant(np.array([1]))), "f32")
    angles = ops.transpose(ops.matmul(each, places, False, False), ops.constant(np.array([0, 2, 1])))
    both = ops.concat([angles, angles], -1)
    found = []
    for turn in (ops.cos(both), ops.sin(both)):
        scaled = turn if scaling == 1 else ops.multiply(turn, ops.constant(np.float32(scaling)))
        found.append(ops.unsqueeze(scaled, ops.constant(np.array([1]))))
    return found[0], found[1]


def _turned(vectors: Any, turns: tuple[Any, Any], size: int) -> Any:
    """Pairs that stand half a head apart, turned by their position's angles."""
    one, last = ops.constant(np.array([1])), ops.constant(np.array([3]))
    half, zero = ops.constant(np.array([size // 2])), ops.constant(np.array([0]))
    second = ops.slice(vectors, half, ops.constant(np.array([_END])), one, last)
    first = ops.slice(vectors, zero, half, one, last)
    across = ops.concat([ops.multiply(second, ops.constant(np.float32(-1))), first], -1)
    return ops.add(ops.multiply(vectors, turns[0]), ops.multiply(across, turns[1]))


def _remembered(new: Any, name: str, shapes: _Shapes, sinks: list[Any]) -> Any:
    """What was there before and what is new, and both are kept."""
    empty = ops.concat([shapes.rows, ops.constant(np.array([shapes.kinds, 0, shapes.size]))], 0)
    nothing = ops.broadcast(ops.constant(np.float32(0)), empty)
    known = f"past_key_values.{name}present.{name}"
    past = ops.read_value(nothing, known, np.float32, [-1, shapes.kinds, -1, shapes.size])
    ordered = ops.gather(past, shapes.order, ops.constant(np.int64(0)))
    whole = ops.concat([ordered, new], 2)
    sinks.append(ops.assign(whole, known))
    return whole


def _shared(kept: Any, shapes: _Shapes) -> Any:
    """Each head of keys or values for the heads of queries that share it."""
    times = shapes.heads // shapes.kinds
    if times == 1:
        return kept
    apart = ops.unsqueeze(kept, ops.constant(np.array([2])))
    lengths = ops.gather(ops.shape_of(kept), ops.constant(np.array([0, 2])), ops.constant(np.int64(0)))
    rows = ops.gather(lengths, ops.constant(np.array([0])), ops.constant(np.int64(0)))
    length = ops.gather(lengths, ops.constant(np.array([1])), ops.constant(np.int64(0)))
    kinds, size = ops.constant(np.array([shapes.kinds])), ops.constant(np.array([shapes.size]))
    wide = ops.concat([rows, kinds, ops.constant(np.array([times])), length, size], 0)
    spread = ops.broadcast(apart, wide, "BIDIRECTIONAL")
    return ops.reshape(spread, ops.constant(np.array([0, shapes.heads, -1, shapes.size])), special_zero=True)


def _check(network: Causal, config: Any) -> None:
    kind, rope = config.model_type, config.rope_parameters.get("rope_type", "default")
    wrong = None
    if kind not in KINDS:
        wrong = f"a model of the kind '{kind}' cannot be compressed; known: {', '.join(KINDS)}"
    elif rope not in ROPES:
        wrong = f"positions of the kind '{rope}' cannot be compressed; known: {', '.join(ROPES)}"
    elif getattr(config, "use_sliding_window", False):
        wrong = "a model whose attention slides over a window cannot be compressed"
    elif config.hidden_act != "silu":
        wrong = f"a model with the activation '{config.hidden_act}' cannot be compressed"
    elif network.adapted is not None:
        wrong = "a model whose adapter lies beside its weights cannot be compressed"
    if wrong:
        raise StepError(wrong, hint="serve it as it is: the reference engine answers, more slowly", code="architecture")


def save(model: Any, network: Causal, folder: Path) -> None:
    """Write what ``feilun.models.paged.load`` reads: model.xml, model.bin, tokenizer.json, config.json, the template.

    The same model is the same bytes; what is float32 stays float32.
    """
    model.set_friendly_name("words")
    for number, operation in enumerate(model.get_ordered_ops()):  # its own names count all that the process ever made
        if operation.get_type_name() not in ("Parameter", "Result"):
            operation.set_friendly_name(f"{operation.get_type_name()}_{number}")
    openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)
    config: dict[str, Any] = network.encoder.config.to_dict()
    own: dict[str, Any] = {"task": "generate"} | dict(config.get("feilun") or {})
    own |= {"head": causal.HEAD, "context": network.context, "decided": network.decided}
    own |= {"ends": sorted(network.stops), "positions": network.positions}
    kept = {name: config[name] for name in ("model_type", "vocab_size") if name in config}
    (folder / "config.json").write_bytes(canonical(kept | {"feilun": own}))
    network.tokenizer.save(str(folder / "tokenizer.json"))
    chat.save(network.chat, folder, network.context)
