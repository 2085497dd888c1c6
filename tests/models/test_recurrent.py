from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import transformers
from pydantic import ValidationError

import feilun.compress.step
import feilun.finetune.step  # noqa: F401 - registers the step
from feilun import models
from feilun.compress import quantise
from feilun.errors import SettingError
from feilun.finetune.settings import FinetuneSettings
from feilun.models import network, openvino
from feilun.models.adapting.options import MethodOptions
from feilun.pipeline.kinds import Model
from tests.models import tiny

TEXTS = ["the film was warm and its end poor", "a dull story", "fine"]


def grown(base: Path, architecture: str, depth: int = 2) -> network.Network:
    shape: Any = SimpleNamespace(architecture=architecture, width=16, depth=depth, seed=1)
    made = network.grow(base, shape, tiny.CONTEXT)
    made.relabel(sorted(tiny.SAYS), seed=1)
    return made


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_base(tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize("architecture", ["lstm", "bilstm"])
def test_padding_changes_no_answer(base: Path, architecture: str) -> None:
    made = grown(base, architecture).eval()
    ids = torch.tensor([[2, 5, 6, 17, 3]])
    padded = torch.nn.functional.pad(ids, (0, 6), value=9)
    alone = made(ids, torch.ones_like(ids))
    torch.testing.assert_close(made(padded, torch.nn.functional.pad(torch.ones_like(ids), (0, 6))), alone)


def test_the_second_direction_is_what_torch_s_own_bidirectional_lstm_computes(base: Path) -> None:
    encoder = grown(base, "bilstm", depth=1).eval().encoder
    theirs = torch.nn.LSTM(16, 8, batch_first=True, bidirectional=True)
    for name, weight in encoder.layers[0].right.state_dict().items():
        theirs.state_dict()[name].copy_(weight)
    for name, weight in encoder.layers[0].left.state_dict().items():
        theirs.state_dict()[f"{name}_reverse"].copy_(weight)
    ids, lengths = torch.tensor([[2, 5, 6, 17, 3], [2, 9, 3, 0, 0]]), torch.tensor([5, 3])
    packed = torch.nn.utils.rnn.pack_padded_sequence(encoder.embeddings(ids), lengths, batch_first=True)
    expected = torch.nn.utils.rnn.pad_packed_sequence(theirs(packed)[0], batch_first=True)[0]
    ours = encoder(ids, (ids > 0).long()).last_hidden_state
    torch.testing.assert_close(ours * (ids > 0).unsqueeze(-1), expected)


@pytest.mark.parametrize("architecture", ["lstm", "bilstm"])
def test_saved_loaded_and_exported_it_answers_the_same(base: Path, tmp_path: Path, architecture: str) -> None:
    made = grown(base, architecture)
    network.save(made, tmp_path)
    with network.quiet():
        assert transformers.AutoModel.from_pretrained(tmp_path).config.model_type == "feilun-recurrent"
    loaded = network.Answering(network.load(tmp_path))
    expected = network.Answering(made.eval())
    rows = expected.encode(TEXTS)
    np.testing.assert_array_equal(loaded.run(rows), expected.run(rows))
    quantise.save(quantise.export(loaded.network), tmp_path)
    np.testing.assert_allclose(openvino.load(tmp_path).run(rows), expected.run(rows), atol=1e-5)


def test_dropout_acts_while_it_learns_and_never_while_it_answers(base: Path) -> None:
    made = grown(base, "bilstm")
    ids = torch.tensor([[2, 5, 6, 17, 3]])
    assert not torch.equal(made(ids, torch.ones_like(ids)), made(ids, torch.ones_like(ids)))
    with torch.no_grad():
        torch.testing.assert_close(made(ids, torch.ones_like(ids)), made.eval()(ids, torch.ones_like(ids)))


def test_it_is_tuned_and_compressed_like_any_network(tmp_path: Path) -> None:
    bench = tiny.Bench(tmp_path)
    examples = bench.examples()
    settings = {
        "architecture": "bilstm", "width": 32, "epochs": 10, "learning_rate": 1e-2, "batch_tokens": 512, "context": 40,
    }  # fmt: skip
    tuned = bench.run("finetune", Model, settings, base=bench.base(), examples=examples)
    held_out = tiny.frame().filter(pl.col("split") == "test")
    answers = models.predict(tuned, held_out["text"].to_list())
    assert np.mean([a == b for a, b in zip(answers.labels, held_out["label"], strict=True)]) > 0.8
    assert tuned.facts["trained"] == 1.0
    small = bench.run("compress", Model, {"quantise": "int8"}, model=tuned, examples=examples)
    assert small.facts["disagreement"] <= 0.03
    bench.store.database.close()


def test_its_embeddings_are_trained_unless_the_project_says_otherwise() -> None:
    assert not FinetuneSettings.model_validate({"architecture": "lstm"}).freeze_embeddings
    assert FinetuneSettings.model_validate({"architecture": "lstm", "freeze_embeddings": True}).freeze_embeddings
    assert FinetuneSettings.model_validate({}).freeze_embeddings


@pytest.mark.parametrize("given", [{"width": 32}, {"depth": 2}, {"rank": 4}, {"method": "lora", "bottleneck": 4}])
def test_an_option_without_effect_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="has no effect"):
        FinetuneSettings.model_validate(given)


def test_lora_on_a_network_without_linear_modules_is_refused(base: Path) -> None:
    with pytest.raises(SettingError, match="no linear modules"):
        grown(base, "lstm").adapt("lora", MethodOptions(), seed=0)
