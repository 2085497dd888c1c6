"""A Llama of two layers that knows letters, and conversations that it can learn in seconds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from feilun.models import causal, chat, network

torch.set_num_threads(1)

SPECIALS = ["<pad>", "<s>", "</s>"]
TEMPLATE = (
    "{% for m in messages %}{{ '<s>' + m['role'] + ' ' + m['content'] + '</s> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant ' }}{% endif %}"
)
CONTEXT = 64
CAPITALS = {"a": "xy", "b": "yz", "c": "zx", "d": "xx"}


def write_base(folder: Path, template: str | None = TEMPLATE, seed: int = 0) -> Path:
    """A folder in the Hugging Face layout, with random weights; grouped heads, tied embeddings."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)] + list("Ġ.:!")
    tokenizer = Tokenizer(models.BPE({w: i for i, w in enumerate([*SPECIALS, *letters, "qu"])}, [("q", "u")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIALS)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = transformers.LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.2,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng(), network.quiet():
        torch.manual_seed(seed)
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
    told = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    (folder / chat.CONFIGURATION).write_text(json.dumps(told), "utf-8")
    if template is not None:
        (folder / chat.TEMPLATE).write_text(template, "utf-8")
    return folder


def load(folder: Path, template: str | None = TEMPLATE) -> causal.Causal:
    """A fresh one."""
    return causal.load(write_base(folder, template), CONTEXT)


def ask(question: str, *answers: str) -> list[dict[str, str]]:
    """A conversation: the question, and answers with more questions between them."""
    found = [{"role": "user", "content": question}]
    for number, answer in enumerate(answers):
        found += [{"role": "user", "content": "more"}] if number else []
        found.append({"role": "assistant", "content": answer})
    return found


def frame(conversations: Sequence[list[dict[str, str]]] | None = None, held_out: int = 0) -> pl.DataFrame:
    """Rows of a dataset; questions whose answers are in ``CAPITALS`` by default."""
    told = conversations or [ask(q, a) for q, a in CAPITALS.items()] * 4
    return pl.DataFrame(
        {
            "id": [f"row-{i:03d}" for i in range(len(told))],
            "text": [c[0]["content"] for c in told],
            "messages": told,
            "split": ["test" if i < held_out else "train" for i in range(len(told))],
            "contributor": ["author"] * len(told),
            "domain": ["letters"] * len(told),
        }
    )


def preferences() -> pl.DataFrame:
    """The right capital beside a wrong one."""
    told = frame()
    right = [m[-1]["content"] for m in told["messages"].to_list()]
    return told.with_columns(
        messages=pl.Series([m[:-1] for m in told["messages"].to_list()], dtype=told["messages"].dtype),
        chosen=pl.Series(right),
        rejected=pl.Series([r[::-1] if r != "xx" else "zz" for r in right]),
    )
