"""A base of the wrong kind is named as that, before its weights are looked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import feilun.finetune.step  # noqa: F401 - registers the step
from feilun.errors import SettingError
from feilun.models import causal
from feilun.pipeline.kinds import Model
from tests.models import tiny, tiny_causal


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[tiny.Bench]:
    made = tiny.Bench(tmp_path)
    yield made
    made.store.database.close()


def test_an_encoder_cannot_write_and_what_can_is_named(bench: tiny.Bench) -> None:
    rows = bench.examples(tiny_causal.frame())
    with pytest.raises(SettingError, match=r"is an encoder \(bert\)") as caught:
        bench.run("finetune", Model, {"task": "generate", "context": 40}, base=bench.base(), examples=rows)
    assert "catalog:SmolLM2-135M-Instruct" in str(caught.value)


def test_a_gguf_model_does_not_tag_and_what_can_is_named(bench: tiny.Bench) -> None:
    folder = bench.folder / "gguf"
    folder.mkdir()
    (folder / causal.GGUF).write_bytes(b"GGUF")
    base = bench.model(folder, format="gguf")
    with pytest.raises(SettingError, match="GGUF model that writes") as caught:
        bench.run("finetune", Model, tiny.QUICK, base=base, examples=bench.examples())
    assert "catalog:all-MiniLM-L6-v2" in str(caught.value)
