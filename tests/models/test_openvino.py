from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import feilun.compress.step
import feilun.finetune.step  # noqa: F401 - registers the step
from feilun import models
from feilun.errors import ArtifactError
from feilun.models import openvino
from feilun.pipeline.kinds import Model
from tests.models import tiny

TEXTS = tiny.frame(60, seed=5)["text"].to_list()


@pytest.fixture(scope="module", params=["int8", "int8-static", "none"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    bench = tiny.Bench(tmp_path_factory.mktemp("openvino"))
    examples = bench.examples()
    tuned = bench.run("finetune", Model, tiny.QUICK, base=bench.base(), examples=examples)
    yield bench.run("compress", Model, {"quantise": request.param}, model=tuned, examples=examples)
    bench.store.database.close()


@pytest.fixture(scope="module")
def engine(model: Model) -> openvino.Engine:
    return openvino.load(model.path)


def test_scores_are_a_distribution_over_the_labels(model: Model, engine: openvino.Engine) -> None:
    scores = engine.run(engine.encode(TEXTS))
    assert scores.shape == (len(TEXTS), 3) and scores.dtype == np.float32
    np.testing.assert_allclose(scores.sum(1), 1, atol=1e-5)
    assert engine.labels == tuple(model.facts["labels"]) == ("bad", "fair", "good")
    assert engine.context == model.facts["context"] == tiny.CONTEXT


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, len(TEXTS) - 1), min_size=1, max_size=50))
def test_a_row_gets_the_same_scores_whatever_else_is_asked(engine: openvino.Engine, chosen: list[int]) -> None:
    alone = np.concatenate([engine.run(engine.encode([TEXTS[i]])) for i in chosen])
    np.testing.assert_array_equal(engine.run(engine.encode([TEXTS[i] for i in chosen])), alone)


def test_threads_that_share_an_engine_do_not_mix_their_answers(model: Model) -> None:
    engine = openvino.load(model.path, threads=2, streams=2)
    rows = [engine.encode([t]) for t in TEXTS]
    expected = [engine.run(r) for r in rows]
    wrong: list[int] = []

    def ask(offset: int) -> None:
        order = [(offset + i) % len(rows) for i in range(len(rows))]
        wrong.extend(i for i in order if not np.array_equal(engine.run(rows[i]), expected[i]))

    threads = [threading.Thread(target=ask, args=(7 * k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_nothing_asked_is_nothing_answered(engine: openvino.Engine) -> None:
    assert engine.run([]).shape == (0, 3)


def test_the_empty_text_and_the_longest_one_are_answered(engine: openvino.Engine) -> None:
    rows = engine.encode(["", "film " * 10_000])
    assert [len(r) for r in rows] == [2, tiny.CONTEXT]
    assert np.isfinite(engine.run(rows)).all()


def test_answering_needs_no_torch_and_reports_to_nobody(model: Model) -> None:
    code = f"""
import json, pathlib, sys
from feilun.models import openvino
engine = openvino.load(pathlib.Path({str(model.path)!r}))
engine.run(engine.encode(["a fine film"]))
print(json.dumps([m for m in ("torch", "transformers", "nncf", "openvino_telemetry.main") if m in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [] and done.stderr == ""


def test_predict_asks_through_the_engine_of_the_format(model: Model, engine: openvino.Engine) -> None:
    found = models.predict(model, TEXTS)
    np.testing.assert_array_equal(found.scores, engine.run(engine.encode(TEXTS)))
    assert found.labels == [found.classes[i] for i in found.scores.argmax(1)]


@pytest.mark.parametrize("file", ["model.xml", "model.bin", "tokenizer.json", "config.json"])
@pytest.mark.parametrize("how", ["missing", "cut short"])
def test_a_damaged_model_is_refused(model: Model, tmp_path: Path, file: str, how: str) -> None:
    for source in model.path.iterdir():
        (tmp_path / source.name).write_bytes(source.read_bytes())
    if how == "missing":
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_bytes((tmp_path / file).read_bytes()[:40])
    with pytest.raises(ArtifactError):
        openvino.load(tmp_path)


def test_a_model_without_a_head_or_of_an_unknown_format_is_refused(tmp_path: Path) -> None:
    bench = tiny.Bench(tmp_path)
    with pytest.raises(ArtifactError, match="how long"):
        models.predict(bench.base(), TEXTS)
    odd = bench.model(tiny.write_base(tmp_path / "odd"), format="onnx")
    with pytest.raises(ArtifactError, match="'onnx'"):
        models.predict(odd, TEXTS)
    bench.store.database.close()
