"""Compressing models that write."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import feilun.compress.step  # noqa: F401 - registers the step
from faults.house import build_writer
from feilun.compress import words
from feilun.compress.settings import CompressSettings
from feilun.errors import StepError
from feilun.models import causal, graph, paged
from feilun.pipeline.kinds import Dataset, Model
from tests.models import tiny, tiny_causal

ROWS = [
    tiny_causal.ask(f"is {film} good?", f"{film} is dull, and the end is slow") for film in ("this", "it", "a plot")
]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tiny.Bench]:
    made = tiny.Bench(tmp_path_factory.mktemp("compress-words"))
    yield made
    made.store.database.close()


@pytest.fixture(scope="module")
def examples(bench: tiny.Bench) -> Dataset:
    return bench.examples(tiny_causal.frame(ROWS * 2, held_out=4))


@pytest.fixture(scope="module")
def tuned(bench: tiny.Bench) -> Model:
    build_writer(bench.folder / "writer", seed=5)
    return bench.model(bench.folder / "writer", format="safetensors", task="generate", context=512)


def report(made: Model) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((made.path / "parity.json").read_bytes())
    return found


def test_a_model_in_32_bits_says_exactly_what_it_said(bench: tiny.Bench, examples: Dataset, tuned: Model) -> None:
    made = bench.run("compress", Model, {"quantise": "none"}, model=tuned, examples=examples)
    found = report(made)
    assert made.facts["format"] == "paged" and made.facts["task"] == "generate"
    assert found["disagreement"] == 0 and found["rows"] == 4 and found["n"] > 100
    assert abs(found["perplexity"]["change"]) < 1e-3 and found["logprob_change"]["largest"] < 0.05
    assert {"id", "near", "right", "before", "after"} <= found["worst"].keys()


@pytest.mark.parametrize(("quantise", "share"), [("int8", 0.35), ("int4", 0.3)])
def test_fewer_bits_are_smaller_and_what_they_change_is_told(
    bench: tiny.Bench, examples: Dataset, tuned: Model, quantise: str, share: float
) -> None:
    loose = {"quantise": quantise, "max_token_changes": 1.0, "max_perplexity_change": 100.0}
    made = bench.run("compress", Model, loose, model=tuned, examples=examples)
    plain = bench.run("compress", Model, {"quantise": "none"}, model=tuned, examples=examples)
    sizes = [(m.path / "model.bin").stat().st_size for m in (made, plain)]
    assert sizes[0] < share * sizes[1]
    assert 0 < report(made)["logprob_change"]["mean"] < (0.5 if quantise == "int8" else 5)


@pytest.mark.parametrize(
    ("disagreement", "change", "said"),
    [(0.2, 0.0, "next tokens, more than the limit"), (0.0, 0.2, "more perplexing"), (0.0, float("nan"), "perplexing")],
)
def test_a_model_that_would_write_otherwise_is_refused(disagreement: float, change: float, said: str) -> None:
    found = {"n": 100, "disagreement": disagreement, "perplexity": {"change": change}, "worst": {"id": "row-000"}}
    with pytest.raises(StepError, match=said):
        words.check(found, CompressSettings())


def test_compressing_twice_gives_the_same_bytes(tuned: Model, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        words.write(causal.load(tuned.path), CompressSettings(), tmp_path / name)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_the_compressed_model_can_be_asked_without_torch(bench: tiny.Bench, examples: Dataset, tuned: Model) -> None:
    import subprocess
    import sys

    made = bench.run("compress", Model, {"quantise": "none"}, model=tuned, examples=examples)
    program = (
        "import sys; from pathlib import Path; from feilun.models import paged; from feilun.models.decoder import *\n"
        f"decoder = paged.load(Path({str(made.path)!r}), threads=1)\n"
        "print(len(written(decoder, [decoder.encode('good')], Manner(most=3))[0]))\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "3"


@pytest.mark.parametrize("kind", ["grouped heads", "tied", "biases", "norms of heads"])
def test_every_form_of_the_llama_kind_is_written_down_as_it_is(kind: str, tmp_path: Path) -> None:
    import torch
    import transformers

    told: dict[str, Any] = {
        "vocab_size": 34, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2 if kind == "grouped heads" else 4, "head_dim": 32,
        "max_position_embeddings": 128, "initializer_range": 0.2, "tie_word_embeddings": kind == "tied",
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    name = {"biases": "qwen2", "norms of heads": "qwen3"}.get(kind, "llama")
    if name == "qwen2":
        del told["head_dim"]
    tiny_causal.write_base(tmp_path / "base")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        made = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(name, **told))
        for parameter in made.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
        made.save_pretrained(tmp_path / "base")
    network = causal.load(tmp_path / "base")
    (tmp_path / "paged").mkdir()
    graph.save(graph.build(network), network, tmp_path / "paged")
    rows = tiny_causal.frame([tiny_causal.ask("abc def ghi", "jkl mno pq qu rst")])
    found = words.compare(network, paged.load(tmp_path / "paged"), rows)
    assert found["disagreement"] == 0 and found["logprob_change"]["largest"] < 0.02


def test_what_is_not_of_the_llama_kind_is_refused(bench: tiny.Bench, examples: Dataset, tuned: Model) -> None:
    network = causal.load(tuned.path)
    network.encoder.config.model_type = "gpt2"
    with pytest.raises(StepError, match="'gpt2' cannot be compressed"):
        graph.build(network)
    with pytest.raises(StepError, match="cannot be fixed"):
        bench.run("compress", Model, {"quantise": "int8-static"}, model=tuned, examples=examples)
