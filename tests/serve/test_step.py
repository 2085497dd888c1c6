"""From a model that passed its gate to a release."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from faults.house import House, build_model
from feilun.errors import StepError
from feilun.pipeline.kinds import Model, Report
from feilun.pipeline.steps import Workspace
from feilun.serve.settings import GENERIC, ServeSettings
from feilun.serve.step import serve


def workspace(house: House, folder: Path) -> Workspace:
    (folder / "files").mkdir(parents=True)
    (folder / "scratch").mkdir()
    return Workspace(house.store, folder / "files", folder / "scratch")


def gate(house: House, folder: Path, *, passed: bool) -> Report:
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps({"passed": passed}))
    return house.store.add(Report, folder, parents=[], facts={"passed": passed})


def a_model(house: House, folder: Path, **facts: object) -> Model:
    build_model(folder, seed=5)
    usual = {"format": "openvino", "task": "classify"}
    return house.store.add(Model, folder, parents=[], facts=usual | facts)


def test_a_release_holds_its_model_labels_and_probes_and_is_the_same_again(house: House, tmp_path: Path) -> None:
    model, report = a_model(house, tmp_path / "model"), gate(house, tmp_path / "gate", passed=True)
    made = [serve(model, (report,), ServeSettings(name="r"), workspace(house, tmp_path / f"{n}")) for n in range(2)]
    assert made[0].digest == made[1].digest
    said = json.loads((made[0].path / "release.json").read_bytes())
    assert (said["name"], said["model"], said["task"]) == ("r", model.digest, "classify")
    assert [p["text"] for p in said["probes"]] == list(GENERIC)
    assert set(made[0].parents) == {model.digest, report.digest}
    assert made[0].facts["name"] == "r"


def test_a_model_that_its_gate_refused_is_not_released(house: House, tmp_path: Path) -> None:
    model, report = a_model(house, tmp_path / "model"), gate(house, tmp_path / "gate", passed=False)
    with pytest.raises(StepError, match="refused"):
        serve(model, (report,), ServeSettings(name="r"), workspace(house, tmp_path / "work"))


def test_a_model_that_no_engine_runs_is_not_released(house: House, tmp_path: Path) -> None:
    model = a_model(house, tmp_path / "model", format="safetensors")
    with pytest.raises(StepError) as refused:
        serve(model, (), ServeSettings(name="r"), workspace(house, tmp_path / "work"))
    assert "compress it first" in str(refused.value)


@pytest.mark.parametrize(("task", "said"), [("sing", "does not answer the task 'sing'"), (None, "not tuned")])
def test_a_model_of_a_task_that_the_gateway_cannot_answer_is_not_released(
    house: House, tmp_path: Path, task: str | None, said: str
) -> None:
    model = a_model(house, tmp_path / "model", task=task)
    with pytest.raises(StepError, match=said) as refused:
        serve(model, (), ServeSettings(name="r"), workspace(house, tmp_path / "work"))
    assert "classify" in str(refused.value)
