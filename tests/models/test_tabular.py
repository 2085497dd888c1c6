"""Models of named columns answer as the library says that they were made with, and what does not fit is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feilun.catalog import onnx
from feilun.catalog.local import take
from feilun.errors import ArtifactError, DataError
from feilun.models import tabular
from tests.models import tables

Opened = tuple[tabular.Tabular, tables.Said]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, tables.Said]]:
    folder = tmp_path_factory.mktemp("tables")
    makers = {"pipeline": tables.pipeline, "boosted": tables.boosted, "number": tables.number}
    return {name: (folder / f"{name}.onnx", make(folder / f"{name}.onnx")) for name, make in makers.items()}


@pytest.fixture
def opened(made: dict[str, tuple[Path, tables.Said]], tmp_path: Path) -> Callable[[str], Opened]:
    def open_one(name: str, **declared: Any) -> Opened:
        place, said = made[name]
        own = Path(shutil.copy(place, tmp_path))
        if place.with_suffix(".json").exists():
            shutil.copy(place.with_suffix(".json"), tmp_path)
        if declared:
            tables.declare(own, **declared)
        folder = tmp_path / "taken"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        assert take(own, "model", folder) == {"format": "onnx", "task": "predict"}
        return tabular.load(folder), said

    return open_one


def test_a_pipeline_of_scikit_learn_gives_its_own_probabilities(opened: Callable[[str], Opened]) -> None:
    engine, said = opened("pipeline")
    asked = tables.records(tables.customers(50, seed=1), "age", "visits", "plan")
    answers, right = engine.ask(asked), said(asked)
    assert [c.name for c in engine.columns] == ["age", "visits", "plan"]
    assert [c.holds for c in engine.columns] == ["whole number", "number", "text"]
    assert engine.labels == tables.CLASSES
    np.testing.assert_allclose([[a["scores"][name] for name in tables.CLASSES] for a in answers], right, atol=1e-5)
    assert [a["label"] for a in answers] == [tables.CLASSES[i] for i in right.argmax(1)]
    assert all(a["score"] == max(a["scores"].values()) for a in answers)


def test_lightgbm_gives_its_own_probabilities_also_where_a_number_is_missing(opened: Callable[[str], Opened]) -> None:
    engine, said = opened("boosted")
    asked = tables.records(tables.customers(50, seed=2), "age", "visits")
    asked[3] = {"visits": asked[3]["visits"], "age": None}
    np.testing.assert_allclose([a["scores"]["stays"] for a in engine.ask(asked)], said(asked), atol=1e-5)


def test_a_number_is_answered_as_a_score(opened: Callable[[str], Opened]) -> None:
    engine, said = opened("number")
    asked = tables.records(tables.customers(50, seed=3), "age", "visits")
    assert engine.labels == ()
    np.testing.assert_allclose([a["score"] for a in engine.ask(asked)], said(asked), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"plan": None}, "'plan' takes text, not None"),
        ({"plan": 3}, "'plan' takes text, not 3"),
        ({"age": 31.5}, "'age' takes whole number, not 31.5"),
        ({"age": True}, "'age' takes whole number, not True"),
        ({"age": 2**80}, "'age' takes whole number, not 1208925819614629174706176"),
        ({"visits": "often"}, "'visits' takes number, not 'often'"),
        ({"visits": 1e300}, "'visits' takes number, not 1e+300"),
        ({"vists": 3, "Plan": "x"}, "no column 'vists'; the model has no column 'Plan'"),
    ],
)
def test_columns_that_do_not_fit_are_named_with_their_record(
    opened: Callable[[str], Opened], change: dict[str, Any], said: str
) -> None:
    engine, _ = opened("pipeline")
    good = {"age": 30, "visits": 2.5, "plan": "team"}
    with pytest.raises(DataError) as caught:
        engine.rows([good, good | change])
    assert said in caught.value.what and caught.value.where == "records.1"
    with pytest.raises(DataError, match="'age' is missing; the column 'plan' is missing"):
        engine.rows([{"visits": 2}])


def test_a_row_without_an_answer_does_not_spoil_those_of_others(opened: Callable[[str], Opened]) -> None:
    engine, _ = opened("number")
    rows = engine.rows([{"age": 30, "visits": 2.5}])
    outputs = [*engine.outputs(rows), np.array([np.nan], np.float32)]
    with pytest.raises(DataError, match="no answer") as caught:
        engine.answers(outputs)
    assert caught.value.where == "records.1"
    mixed = engine.outputs([*rows, ("no number", 1.0)])  # what the engine itself cannot take
    np.testing.assert_array_equal(mixed[0], outputs[0])
    assert np.isnan(mixed[1]).all()


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ({"columns": ["age"], "classes": ["leaves", "stays"]}, "2 columns, and 1 of them have names"),
        ({"classes": ["leaves", "stays"]}, "2 columns, and none of them have names"),
        ({"columns": ["age", "visits"]}, "2 classes, and none of them have names"),
        ({"columns": ["age", "visits"], "classes": ["a", "b", "c"]}, "2 classes, and 3 of them have names"),
        ({"columns": ["age", "age"], "classes": ["a", "b"]}, "have the same name"),
        ({"columns": "age", "classes": ["a", "b"]}, "no list of names"),
        ({"columns": ["age", "visits"], "classes": ["a", "b"], "examples": {}}, "examples are no records"),
    ],
)
def test_what_is_declared_must_fit_the_graph(opened: Any, declared: dict[str, Any], said: str) -> None:
    with pytest.raises(ArtifactError, match=said):
        opened("boosted", **declared)


def test_scores_that_are_no_probabilities_are_refused(tmp_path: Path) -> None:
    from skl2onnx import to_onnx
    from sklearn.svm import LinearSVC

    numbers = tables.customers().select("age", "visits").to_numpy().astype(np.float32)
    made = LinearSVC().fit(numbers, tables.customers()["age"].to_numpy() // 30)
    (tmp_path / "model.onnx").write_bytes(to_onnx(made, numbers[:1]).SerializeToString())
    (tmp_path / "config.json").write_text(
        json.dumps({"feilun": {"columns": ["age", "visits"], "classes": ["young", "old", "older"]}})
    )
    with pytest.raises(ArtifactError, match="no probabilities"):
        tabular.load(tmp_path)


def test_a_file_that_is_no_model_or_reaches_for_others_is_refused_case_40(made: Any, tmp_path: Path) -> None:
    import onnx as library

    place = tmp_path / "model.onnx"
    whole = made["boosted"][0].read_bytes()
    for body in (b"", b"\x08\x07", whole[: len(whole) // 2], b"PK\x03\x04" + whole):
        place.write_bytes(body)
        assert onnx.problem(place) == "is not an ONNX model"
        with pytest.raises(ArtifactError, match="cannot load"):
            tabular.load(tmp_path)
    place.write_bytes(whole)
    assert onnx.problem(place) is None
    graph = library.load(made["pipeline"][0])
    outside = library.numpy_helper.from_array(np.zeros((4, 4), np.float32), "w")
    library.external_data_helper.set_external_data(outside, location="../../etc/passwd")
    outside.ClearField("raw_data")
    graph.graph.initializer.append(outside)
    place.write_bytes(graph.SerializeToString())
    assert onnx.problem(place) == "has weights in other files; save it as one file"
