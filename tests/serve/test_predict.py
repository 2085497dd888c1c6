"""Models of named columns over HTTP: from a file in the project to metered answers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select
from typer.testing import CliRunner

from faults.house import HTTP, House, Running, gateway
from feilun.cli import app
from feilun.errors import ArtifactError, StepError
from feilun.flywheel import Flywheel
from feilun.models import tabular
from feilun.pipeline.kinds import Release
from feilun.serve.questions import tidy
from feilun.store import tables as stored
from feilun.templates import init_project
from tests.models import tables

PROJECT = """
[project]
name = "shop"

[serve.churn]
model = "churn.onnx"

[serve.worth]
model = "worth.onnx"
"""
ROOT = Path(__file__).parents[2]
GOOD = {"age": 31, "visits": 2.5, "plan": "basic"}


@dataclass
class Shop:
    wheel: Flywheel
    house: House
    running: Running
    said: tables.Said

    def ask(self, records: Any, **more: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.house.tokens['acme']}"}
        body = {"model": "churn", "records": records} | more
        return HTTP.post(self.running.base + "/v1/predict", content=json.dumps(body), headers=headers)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("shop")
    (folder / "feilun.toml").write_text(PROJECT, "utf-8")
    said = tables.pipeline(folder / "churn.onnx")
    tables.number(folder / "worth.onnx")
    with Flywheel(folder, home=folder / "home") as wheel:
        releases = [o.artifact for o in wheel.run() if isinstance(o.artifact, Release)]
        house = House(wheel.deployment.database_url, wheel.deployment.home, wheel.database, wheel.store, releases[0])
        house.tenant("acme")
        with gateway(house) as running:
            yield Shop(wheel, house, running, said)


def test_records_are_answered_as_their_own_library_does_and_metered(shop: Shop) -> None:
    asked = tables.records(tables.customers(40, seed=5), "age", "visits", "plan")
    said = shop.ask(asked).json()
    right = shop.said(asked)
    assert [r["scores"]["leaves"] for r in said["results"]] == pytest.approx(right[:, 0].tolist(), abs=1e-5)
    assert (said["object"], said["task"]) == ("prediction", "predict")
    assert said["usage"] == {"inputs": 40, "tokens": 0, "amount_nano": 1_000_000, "currency": "USD"}
    with shop.house.database.read() as connection:
        row = connection.execute(select(stored.usage).where(stored.usage.c.request == said["id"])).one()
    assert (row.inputs, row.release, row.route) == (40, said["release"], "/v1/predict")
    assert row.compute_ns > 0


def test_python_and_the_command_line_say_the_same(shop: Shop, tmp_path: Path) -> None:
    for name, asked in (("churn", [GOOD]), ("worth", [{"age": 40, "visits": 3}])):
        results = shop.ask(asked, model=name).json()["results"]
        assert results == tidy(shop.wheel.ask(name, asked))
        (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, asked)), "utf-8")
        words = ["ask", name, "--file", str(tmp_path / "rows.jsonl"), "--project", str(shop.wheel.root), "--json"]
        environment = {"FEILUN_HOME": str(shop.wheel.deployment.home)}
        done = CliRunner(env=environment).invoke(app, words, catch_exceptions=False)
        assert tidy([row["answer"] for row in json.loads(done.output)]) == results
        plain = CliRunner(env=environment).invoke(app, words[:-1], catch_exceptions=False)
        assert '"age"' in plain.output and "score" in plain.output


def charged(shop: Shop) -> int:
    with shop.house.database.read() as connection:
        return len(connection.execute(select(stored.usage.c.request)).all())


@pytest.mark.parametrize(
    ("record", "param", "says"),
    [
        ({"age": 31, "visits": 2.5}, "records.1", "'plan' is missing"),
        (GOOD | {"vists": 2}, "records.1", "no column 'vists'"),
        (GOOD | {"age": "old"}, "records.1", "'age' takes whole number"),
        (GOOD | {"age": [1]}, "records.1.age", "a string, a number, true, false or null"),
        (GOOD | {"plan": "half of a pair: \ud800"}, "records.1.plan", "valid string"),
        (GOOD | {"visits": None}, "records.1", "no answer"),
        (GOOD | {"visits": 10**400}, "records.1", "'visits' takes number"),
        ({}, "records.1", "'age' is missing; the column 'visits' is missing; the column 'plan' is missing"),
        ([1], "records.1", "dictionary"),
        (GOOD | {"<script>" * 12: 1}, "records.1", "no column '<script><script>"),
    ],
)
def test_a_record_that_does_not_fit_is_refused_and_named_and_not_charged(
    shop: Shop, record: Any, param: str, says: str
) -> None:
    before = charged(shop)
    reply = shop.ask([GOOD, record])
    error = reply.json()["error"]
    assert reply.status_code == 422, reply.text
    assert error["param"].startswith(param) and says in error["message"]
    assert charged(shop) == before


def test_a_wrong_record_of_one_caller_leaves_the_others_of_its_batch_alone(shop: Shop) -> None:
    with ThreadPoolExecutor(8) as pool:
        wanted = [[GOOD], [GOOD | {"visits": None}]] * 20
        statuses = [reply.status_code for reply in pool.map(shop.ask, wanted)]
    assert statuses == [200, 422] * 20


def test_texts_and_records_are_not_taken_for_each_other(house: House, running: Running, shop: Shop) -> None:
    token = house.tokens["acme"]
    reply = HTTP.post(
        running.base + "/v1/predict",
        json={"model": "reviews", "records": [GOOD]},
        headers={"Authorization": f"Bearer {token}"},
    )
    assert (reply.status_code, reply.json()["error"]["code"]) == (422, "wrong-task")
    headers = {"Authorization": f"Bearer {shop.house.tokens['acme']}"}
    reply = HTTP.post(shop.running.base + "/v1/classify", json={"model": "churn", "input": "x"}, headers=headers)
    assert (reply.status_code, reply.json()["error"]["code"]) == (422, "wrong-task")


def test_the_list_of_models_names_the_columns(shop: Shop) -> None:
    headers = {"Authorization": f"Bearer {shop.house.tokens['acme']}"}
    found = {m["id"]: m for m in HTTP.get(shop.running.base + "/v1/models", headers=headers).json()["data"]}
    assert found["churn"]["labels"] == list(tables.CLASSES)
    assert found["churn"]["columns"] == [
        {"name": "age", "holds": "whole number"},
        {"name": "visits", "holds": "number"},
        {"name": "plan", "holds": "text"},
    ]
    assert found["worth"]["task"] == "predict"


def test_what_the_documentation_asks_of_tables_is_answered(shop: Shop) -> None:
    (body,) = re.findall(r"ask /v1/predict '(.*)'", (ROOT / "docs" / "answers.md").read_text("utf-8"))
    assert shop.ask(**json.loads(body)).status_code == 200


def test_a_file_that_is_no_table_s_model_is_no_release(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "feilun.toml").write_text('[project]\nname = "p"\n[serve.bad]\nmodel = "bad.onnx"\n', "utf-8")
    (tmp_path / "bad.onnx").write_bytes(b"\x80\x04\x95 a pickle")
    with Flywheel(tmp_path) as wheel, pytest.raises(ArtifactError, match="pickle"):
        list(wheel.run())
    tables.boosted(tmp_path / "bad.onnx")
    tables.declare(tmp_path / "bad.onnx", columns=["age"])
    with Flywheel(tmp_path) as wheel, pytest.raises((ArtifactError, StepError), match="2 columns, and 1"):
        list(wheel.run())


def test_an_exported_model_says_how_it_is_loaded_and_answers_the_same(shop: Shop, tmp_path: Path) -> None:
    _, names = shop.wheel.export("worth", tmp_path / "out")
    assert names == ["README.md", "config.json", "model.onnx"]
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "onnxruntime" in card and "torch" not in card and "every record" in card
    (tmp_path / "feilun.toml").write_text('[project]\nname = "p"\n[serve.worth]\nmodel = "out"\n', "utf-8")
    with Flywheel(tmp_path) as wheel:
        assert len(list(wheel.run())) == 1
        asked = tables.records(tables.customers(9), "age", "visits")
        assert wheel.ask("worth", asked) == shop.wheel.ask("worth", asked)


def test_the_example_is_a_template_whose_model_answers_as_what_its_program_makes(tmp_path: Path) -> None:
    """The bytes differ from run to run: the converter writes sets in whatever order they come."""
    init_project(tmp_path, "predict")
    asked = [GOOD, *tables.records(tables.customers(20), "age", "visits", "plan")]
    answers = []
    for _ in range(2):
        with Flywheel(tmp_path) as wheel:
            (outcome,) = wheel.run()
            (model,) = outcome.artifact.parents
            answers.append(tabular.load(wheel.store.get(model).path).ask(asked))
        subprocess.run([sys.executable, str(tmp_path / "train.py")], check=True)
    assert answers[0] == answers[1]
    assert answers[0][0]["label"] == "leaves" and answers[0][0]["score"] > 0.7
