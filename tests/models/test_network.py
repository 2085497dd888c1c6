from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from feilun.errors import ArtifactError
from feilun.models import network
from tests.models import tiny


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny.write_base(tmp_path / "base")


def headed(base: Path) -> network.Network:
    made = network.load(base, tiny.CONTEXT)
    made.relabel(["bad", "fair", "good"], seed=1)
    return made


def test_what_is_saved_and_loaded_answers_the_same_to_the_last_bit(base: Path, tmp_path: Path) -> None:
    first = network.Answering(headed(base))
    (tmp_path / "saved").mkdir()
    network.save(first.network, tmp_path / "saved")
    second = network.Answering(network.load(tmp_path / "saved"))
    texts = tiny.frame(50)["text"].to_list()
    assert second.labels == first.labels and second.context == first.context == tiny.CONTEXT
    assert second.encode(texts) == first.encode(texts)
    np.testing.assert_array_equal(second.run(second.encode(texts)), first.run(first.encode(texts)))


def test_the_saved_encoder_is_one_that_transformers_loads(base: Path, tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    network.save(headed(base), tmp_path / "saved")
    with network.quiet():
        encoder = transformers.AutoModel.from_pretrained(tmp_path / "saved", add_pooling_layer=False)
    for name, weight in load_file(base / "model.safetensors").items():
        if not name.startswith("pooler."):
            torch.testing.assert_close(encoder.state_dict()[name], weight, rtol=0, atol=0)
    assert str(tmp_path) not in (tmp_path / "saved" / "config.json").read_text()


def test_loading_says_nothing(base: Path, capfd: pytest.CaptureFixture[str]) -> None:
    network.load(base, 8)
    assert capfd.readouterr() == ("", "")


def test_new_labels_keep_what_the_head_knew_of_the_old(base: Path) -> None:
    made = headed(base)
    before = made.head.weight.detach().clone()
    made.relabel(["awful", "bad", "fair", "good"], seed=1)
    assert made.labels == ("awful", "bad", "fair", "good")
    torch.testing.assert_close(made.head.weight[1:], before)


def test_padding_changes_no_answer_beyond_rounding(base: Path) -> None:
    made = headed(base)
    ids = torch.tensor([[2, 5, 6, 3]])
    padded = torch.nn.functional.pad(ids, (0, 12), value=9)
    alone = made(ids, torch.ones_like(ids))
    torch.testing.assert_close(made(padded, torch.nn.functional.pad(torch.ones_like(ids), (0, 12))), alone)


def test_missing_weights_are_named(base: Path) -> None:
    state = load_file(base / "model.safetensors")
    del state["encoder.layer.1.output.dense.weight"]
    save_file(state, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ArtifactError, match=r"layer\.1\.output\.dense\.weight"):
        network.load(base, 8)


def test_weights_of_another_shape_are_refused(base: Path) -> None:
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "intermediate_size": 48}))
    with pytest.raises(ArtifactError):
        network.load(base, 8)


def test_a_tokenizer_of_another_model_is_refused(base: Path) -> None:
    tokenizer = json.loads((base / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"].update({f"more{i}": 100 + i for i in range(50)})
    (base / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ArtifactError, match="not of the same model"):
        network.load(base, 8)


def test_code_that_comes_with_a_model_is_not_run(base: Path, tmp_path: Path) -> None:
    sentinel = tmp_path / "sentinel"
    (base / "own.py").write_text(f"open({str(sentinel)!r}, 'w')\nclass Own: pass\n")
    config = json.loads((base / "config.json").read_text())
    config |= {"auto_map": {"AutoConfig": "own.Own", "AutoModel": "own.Own"}, "model_type": "own"}
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtifactError):
        network.load(base, 8)
    assert not sentinel.exists()
