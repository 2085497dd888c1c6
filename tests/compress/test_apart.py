"""Models kept apart from their base: the same answers, one base for all, and nothing that was changed is left out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import feilun.compress.step
import feilun.finetune.step  # noqa: F401 - registers the step
from feilun import models
from feilun.errors import StepError
from feilun.models import inference
from feilun.pipeline.kinds import Dataset, Model
from feilun.pipeline.steps import Workspace
from feilun.serve import release
from feilun.serve.settings import ServeSettings
from feilun.serve.step import serve
from tests.models import tiny

APART = {"apart": True, "quantise": "none", "max_disagreement": 0.0}
LORA = {"method": "lora", "rank": 4, "epochs": 20, "freeze_embeddings": True}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tiny.Bench]:
    made = tiny.Bench(tmp_path_factory.mktemp("apart"))
    yield made
    made.store.database.close()


@pytest.fixture(scope="module")
def examples(bench: tiny.Bench) -> Dataset:
    return bench.examples()


@pytest.fixture(scope="module")
def base(bench: tiny.Bench) -> Model:
    return bench.base()


def tune(bench: tiny.Bench, base: Model, examples: Dataset, **settings: Any) -> Model:
    return bench.run("finetune", Model, tiny.QUICK | settings, base=base, examples=examples)


@pytest.fixture(scope="module")
def tuned(bench: tiny.Bench, base: Model, examples: Dataset) -> Model:
    return tune(bench, base, examples, **LORA)


@pytest.fixture(scope="module")
def headed(bench: tiny.Bench, base: Model, examples: Dataset) -> Model:
    return tune(bench, base, examples, method="head", freeze_embeddings=True)


def test_a_model_kept_apart_answers_as_the_merged_one(
    bench: tiny.Bench, examples: Dataset, tuned: Model, headed: Model
) -> None:
    texts = tiny.frame(60, seed=9)["text"].to_list()
    for model, files in ((tuned, {"adapter", "head.safetensors"}), (headed, {"head.safetensors"})):
        kept = bench.run("compress", Model, APART, model=model, examples=examples)
        before, after = models.predict(model, texts), models.predict(kept, texts)
        np.testing.assert_allclose(after.scores, before.scores, atol=1e-4)
        assert kept.facts["format"] == "adapter"
        assert kept.facts["base"] in kept.parents
        there = {f.name for f in kept.path.iterdir()}
        assert there == files | {"config.json", "parity.json", "README.md", "manifest.json"}


@pytest.mark.parametrize("quantise", ["none", "int8"])
def test_all_models_of_a_base_share_one_artefact_of_it(
    bench: tiny.Bench, examples: Dataset, tuned: Model, headed: Model, quantise: str
) -> None:
    settings = APART | {"quantise": quantise, "max_disagreement": 0.1}
    kept = [bench.run("compress", Model, settings, model=model, examples=examples) for model in (tuned, headed)]
    assert kept[0].facts["base"] == kept[1].facts["base"]
    sizes = json.loads((kept[1].path / "parity.json").read_bytes())["bytes"]
    assert sizes["after"] < 0.3 * sizes["before"]


def test_the_base_is_the_same_bytes_wherever_it_is_made(
    bench: tiny.Bench, examples: Dataset, headed: Model, tmp_path: Any
) -> None:
    kept = bench.run("compress", Model, APART, model=headed, examples=examples)
    other = tiny.Bench(tmp_path)
    rows = other.examples()
    again = tune(other, other.base(), rows, method="head", freeze_embeddings=True, context=20)
    made = other.run("compress", Model, APART, model=again, examples=rows)
    assert made.facts["base"] == kept.facts["base"]
    assert made.facts["context"] == 20
    other.store.database.close()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"method": "full"}, "would share"),
        ({"method": "bitfit"}, "would share"),
        ({"method": "adapter"}, "more than linear modules"),
        ({"method": "lora", "rank": 2, "dora": True}, "use_dora"),
    ],
)
def test_a_method_that_changes_what_others_would_share_is_refused(
    bench: tiny.Bench, base: Model, examples: Dataset, settings: dict[str, Any], said: str
) -> None:
    model = tune(bench, base, examples, **({"freeze_embeddings": True, "epochs": 1} | settings))
    with pytest.raises(StepError, match=said):
        bench.run("compress", Model, APART, model=model, examples=examples)


def test_a_base_is_not_calibrated_for_one_of_its_models(bench: tiny.Bench, examples: Dataset, headed: Model) -> None:
    with pytest.raises(StepError, match="calibrated"):
        bench.run("compress", Model, APART | {"quantise": "int8-static"}, model=headed, examples=examples)


def test_a_model_tuned_from_a_tuned_one_has_that_as_its_base(
    bench: tiny.Bench, examples: Dataset, tuned: Model
) -> None:
    again = tune(bench, tuned, examples, method="lora", rank=2, epochs=2, freeze_embeddings=True)
    kept = bench.run("compress", Model, APART, model=again, examples=examples)
    texts = tiny.frame(40, seed=5)["text"].to_list()
    np.testing.assert_allclose(models.predict(kept, texts).scores, models.predict(again, texts).scores, atol=1e-4)


def test_a_model_kept_apart_becomes_a_release_with_its_own_fingerprint(
    bench: tiny.Bench, examples: Dataset, tuned: Model, headed: Model, tmp_path: Any
) -> None:
    said = []
    for name, model in (("tuned", tuned), ("headed", headed)):
        kept = bench.run("compress", Model, APART, model=model, examples=examples)
        folder, scratch = tmp_path / name, tmp_path / f"{name}-scratch"
        folder.mkdir()
        scratch.mkdir()
        made = serve(kept, (), ServeSettings.model_validate({"name": name}), Workspace(bench.store, folder, scratch))
        said.append(release.read(made.path)["probes"])
        release.check(inference.load(kept), release.read(made.path), 1e-5)
    assert said[0] != said[1]
