"""Every task of texts from its example project to answers over HTTP, the same as in Python and on the command line."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from typer.testing import CliRunner

from faults.house import HTTP, House, Running, gateway
from feilun.cli import app
from feilun.flywheel import Flywheel
from feilun.pipeline.kinds import Model, Release
from feilun.serve.questions import tidy
from feilun.store import tables
from feilun.templates import shipped
from tests.models import tiny

ROOT = Path(__file__).parents[2]
FAST = ["epochs=1", "context=96", "batch_tokens=512"]
TEXT = "Priya flew from Osaka to Bergen. Her parcel, sent on Monday, arrives on Friday at noon, and is not broken."


@dataclass(frozen=True)
class Case:
    """An example project, what it serves, and what it is asked: a body, and the same as rows of columns."""

    example: str
    section: str
    served: str
    route: str
    asked: dict[str, Any]
    rows: list[dict[str, Any]]
    rows_csv: str = ""


INPUTS = ["When will it arrive?", TEXT]
SHOWN = ["It comes on Friday.", "Cancel until it is sent.", "We deliver on Saturdays.", "It comes on Friday."]
_WORDS = enumerate(["fine", "dull"] * 20)
RATED = "id,text,rating\n" + "".join(f"{i}_1,the {word} thing {i},{i % 9 - 4}\n" for i, word in _WORDS)
CASES = {
    "tag": Case("tag", "names", "names", "/v1/tag", {"input": INPUTS}, [{"text": t} for t in INPUTS]),
    "extract": Case(
        *("extract", "parcels", "parcels", "/v1/extract"),
        {"input": INPUTS[0], "other": TEXT * 3},
        [{"text": INPUTS[0], "other": TEXT * 3}],
    ),
    "rank": Case(
        *("rank", "help", "help", "/v1/rank"),
        {"input": INPUTS, "candidates": SHOWN},
        [{"text": t, "candidates": SHOWN} for t in INPUTS],
    ),
    "embed": Case(
        *("embed", "help", "vectors", "/v1/rank"),
        {"input": INPUTS, "candidates": [SHOWN, SHOWN[:2]]},
        [{"text": t, "candidates": c} for t, c in zip(INPUTS, (SHOWN, SHOWN[:2]), strict=True)],
    ),
    "multilabel": Case(
        *("multilabel", "tickets", "tickets", "/v1/classify"), {"input": INPUTS}, [{"text": t} for t in INPUTS]
    ),
    "pair": Case(
        *("pair", "questions", "questions", "/v1/classify"),
        {"input": INPUTS, "other": SHOWN[:2]},
        [{"text": t, "other": o} for t, o in zip(INPUTS, SHOWN, strict=False)],
    ),
    "similarity": Case(
        *("similarity", "questions", "alike", "/v1/score"),
        {"input": INPUTS, "other": SHOWN[0]},
        [{"text": t, "other": SHOWN[0]} for t in INPUTS],
    ),
    "regress": Case(
        *("regress", "ratings", "ratings", "/v1/score"), {"input": INPUTS}, [{"text": t} for t in INPUTS], RATED
    ),
}


@dataclass
class Town:
    """All of them in one house, with a gateway that answers."""

    wheels: dict[str, Flywheel]
    house: House
    running: Running
    token: str

    def post(self, task: str, **changes: Any) -> httpx.Response:
        case = CASES[task]
        body = {"model": case.served} | case.asked | changes
        return self.send(case.route, {k: v for k, v in body.items() if v is not None})

    def send(self, route: str, body: dict[str, Any]) -> httpx.Response:
        return HTTP.post(self.running.base + route, json=body, headers={"Authorization": f"Bearer {self.token}"})


def write_base(folder: Path) -> Path:
    """A BERT of two narrow layers that reads bytes."""
    import torch
    import transformers

    folder.mkdir(parents=True)
    letters = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    config = transformers.BertConfig(
        vocab_size=len(letters),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=96,
    )
    with torch.random.fork_rng(), tiny.network.quiet():
        torch.manual_seed(0)
        transformers.BertModel(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.BPE(vocab={w: i for i, w in enumerate(letters)}, merges=[], unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def turned(case: Case, folder: Path, base: Path, home: Path) -> Flywheel:
    """The example as it ships, run to its release; the model it begins with is tiny, and so is the training."""
    root = Path(shutil.copytree(shipped("examples") / case.example, folder / case.example))
    name = case.section
    changes = [f'finetune.{name}.base="{base}"', *(f"finetune.{name}.{one}" for one in FAST)]
    changes += [f"compress.{name}.max_disagreement=1.0", f'serve.{name}.name="{case.served}"']
    changes += ['compress.names.quantise="int8"'] if name == "names" else [f'compress.{name}.quantise="none"']
    if case.rows_csv:
        (root / "rows.csv").write_text(case.rows_csv, "utf-8")
        changes += [f'prepare.{name}.source="rows.csv"', f"prepare.{name}.near_duplicate=1.0"]
    wheel = Flywheel(root, changes, home=home)
    assert any(isinstance(outcome.artifact, Release) for outcome in wheel.run())
    return wheel


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    folder = tmp_path_factory.mktemp("town")
    base, home = write_base(folder / "base"), folder / "home"
    wheels = {task: turned(case, folder, base, home) for task, case in CASES.items()}
    some = wheels["tag"]
    release = some.store.get(next(o.artifact for o in some.run() if isinstance(o.artifact, Release)).digest)
    assert isinstance(release, Release)
    house = House(some.deployment.database_url, home, some.database, some.store, release)
    token = house.tenant("acme")
    with gateway(house) as running:
        yield Town(wheels, house, running, token)
    for wheel in wheels.values():
        wheel.close()


def same(said: Any, other: Any) -> None:
    """As equal as float32 lets two answers be that were not batched alike."""
    if isinstance(said, dict):
        assert said.keys() == other.keys()
        for key in said:
            same(said[key], other[key])
    elif isinstance(said, list):
        assert len(said) == len(other)
        for one, two in zip(said, other, strict=True):
            same(one, two)
    else:
        assert said == (pytest.approx(other, rel=1e-4, abs=1e-6) if isinstance(other, float) else other)


@pytest.mark.parametrize("task", CASES)
def test_http_python_and_the_command_line_say_the_same(town: Town, task: str, tmp_path: Path) -> None:
    case, wheel = CASES[task], town.wheels[task]
    reply = town.post(task)
    assert reply.status_code == 200, reply.text
    said = reply.json()
    assert said["task"] == task
    assert said["usage"]["inputs"] == len(case.rows)
    results = said["results"]
    for one in results:
        for place in one.get("ranking", ()):
            assert place["text"] == SHOWN[place.pop("index")]
    same(results, tidy(wheel.ask(case.served, case.rows, served=True)))
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, case.rows)), "utf-8")
    words = ["ask", case.served, "--file", str(tmp_path / "rows.jsonl"), "--served", "--json"]
    done = CliRunner(env={"FEILUN_HOME": str(wheel.deployment.home)}).invoke(
        app, [*words, "--project", str(wheel.root)], catch_exceptions=False
    )
    same(results, tidy([row["answer"] for row in json.loads(done.output)]))


@pytest.mark.parametrize("task", CASES)
def test_what_was_read_is_metered_with_the_release_that_read_it(town: Town, task: str) -> None:
    said = town.post(task).json()
    with town.house.database.read() as connection:
        row = connection.execute(select(tables.usage).where(tables.usage.c.request == said["id"])).one()
    assert (row.inputs, row.tokens, row.release) == (said["usage"]["inputs"], said["usage"]["tokens"], said["release"])
    assert row.amount_nano == said["usage"]["amount_nano"] == 1_000_000 + 10 * row.tokens
    letters = sum(len(text) for text in CASES[task].rows[0].values() if isinstance(text, str))
    assert row.tokens > letters // 2  # the base reads bytes: nothing that was read is left out
    assert row.compute_ns > 0


@pytest.mark.parametrize("task", CASES)
def test_what_is_served_was_compared_with_what_was_trained(town: Town, task: str) -> None:
    wheel = town.wheels[task]
    (model,) = (a for a in map(wheel.store.get, wheel._released(CASES[task].served).parents) if isinstance(a, Model))
    parity = json.loads((model.path / "parity.json").read_bytes())
    assert parity["n"] > 0 and 0 <= parity["disagreement"] <= 1
    assert parity["before"].keys() == parity["after"].keys() != set()
    if task != "tag":  # the one of them that was rounded to 8 bits
        assert parity["disagreement"] < 0.01


def test_tasks_that_are_asked_at_once_get_the_answers_that_they_get_alone(town: Town) -> None:
    alone = {task: town.post(task).json()["results"] for task in CASES}
    asked = list(CASES) * 6
    with ThreadPoolExecutor(16) as pool:
        for task, reply in zip(asked, pool.map(town.post, asked), strict=True):
            same(reply.json()["results"], alone[task])


def test_questions_that_are_refused_after_their_tokens_were_counted_leave_no_thread_waiting(town: Town) -> None:
    poor = replace(town, token=town.house.tenant("poor", budget_nano=1))
    with ThreadPoolExecutor(16) as pool:  # more questions than there are threads
        assert {reply.status_code for reply in pool.map(poor.post, ["tag"] * 100)} == {429}
    assert town.post("tag").status_code == 200


def test_all_candidates_of_a_vector_model_are_counted(town: Town) -> None:
    few, many = (town.post("embed", input="a", candidates=[f"{i} fish" for i in range(n)]).json() for n in (2, 10))
    assert many["usage"]["tokens"] - few["usage"]["tokens"] == 8 * len("[0 fish]")


def test_a_ranking_is_cut_at_the_top_and_a_text_that_stands_twice_has_two_places(town: Town) -> None:
    (ranking,) = (result["ranking"] for result in town.post("rank", input=INPUTS[0], top=3).json()["results"])
    assert len(ranking) == 3
    assert len({one["index"] for one in ranking}) == 3


@pytest.mark.parametrize(
    ("task", "changes", "param"),
    [
        ("tag", {"other": "x"}, "other"),
        ("tag", {"input": []}, "input"),
        ("extract", {"other": None}, "other"),
        ("extract", {"other": ["a", "b"]}, "other"),
        ("pair", {"other": None}, "other"),
        ("multilabel", {"other": "x"}, "other"),
        ("regress", {"other": "x"}, "other"),
        ("similarity", {"other": ["a", 7]}, "other.1"),
        ("rank", {"candidates": None}, "candidates"),
        ("rank", {"candidates": "x"}, "candidates"),
        ("rank", {"candidates": []}, "candidates.0"),
        ("rank", {"candidates": [["a"], ["b"], ["c"]]}, "candidates"),
        ("rank", {"candidates": [f"{i}" for i in range(501)]}, "candidates"),
        ("rank", {"top": 0}, "top"),
        ("tag", {"model": "tickets"}, "model"),
        ("multilabel", {"model": "names"}, "model"),
    ],
)
def test_a_question_that_does_not_fit_the_model_is_refused_by_its_part(
    town: Town, task: str, changes: dict[str, Any], param: str
) -> None:
    reply = town.post(task, **changes)
    assert (reply.status_code, reply.json()["error"]["param"]) == (422, param)


def test_an_answer_that_is_no_single_label_cannot_be_corrected(town: Town) -> None:
    for task in ("pair", "multilabel", "tag"):
        given = {"request": town.post(task).json()["id"], "input": 0, "text": INPUTS[0], "label": "x"}
        reply = town.send("/v1/feedback", given | {"contributor": "ann", "consent": ["learn"]})
        assert (reply.status_code, reply.json()["error"]["code"]) == (422, "wrong-correction")


def test_a_gateway_that_answered_every_task_never_loaded_torch(town: Town) -> None:
    assert all(town.post(task).status_code == 200 for task in CASES)
    maps = Path(f"/proc/{town.running.process.pid}/maps").read_text("utf-8")
    assert "openvino" in maps and "libtorch" not in maps


def test_each_task_answers_in_a_fresh_interpreter_without_torch(town: Town) -> None:
    asked = {}
    for task, case in CASES.items():
        wheel = town.wheels[task]
        (model,) = (a for a in map(wheel.store.get, wheel._released(case.served).parents) if isinstance(a, Model))
        asked[model.digest] = case.rows
    script = """
import json, sys
from pathlib import Path
import polars as pl
from feilun import tasks
from feilun.store.artifacts import ArtifactStore
from feilun.store.migrations import open_database
url, folder, asked = json.loads(sys.stdin.read())
with open_database(url) as database:
    store = ArtifactStore(Path(folder), database)
    for digest, rows in asked.items():
        model = store.get(digest)
        assert tasks.ask(model, pl.DataFrame(rows)).said
        heavy = {"torch", "transformers", "scipy", "sklearn"} & sys.modules.keys()
        assert not heavy, (model.facts["task"], heavy)
"""
    told = json.dumps([town.house.url, str(town.house.folder / "artifacts"), asked])
    subprocess.run([sys.executable, "-c", script], input=told, text=True, check=True, cwd=ROOT)


def test_what_the_documentation_asks_is_answered(town: Town) -> None:
    """Each ``ask`` of docs/answers.md, sent as it stands there; the tables' have a test of their own."""
    text = (ROOT / "docs" / "answers.md").read_text("utf-8")
    asked = re.findall(r"^    ask (/v1/\w+) '(\{.*?\})'$", text, re.MULTILINE | re.DOTALL)
    assert len(asked) > 6
    for route, body in asked:
        if route != "/v1/predict":
            reply = town.send(route, json.loads(body))
            assert reply.status_code == 200, (route, reply.text)


HOSTILE = [
    b'{"model": "MODEL", "input": "\\ud800", "other": "x", "candidates": ["x"]}',
    b'{"model": "MODEL", "input": "x", "other": "a\\u0000b", "candidates": ["\\u0000"]}',
    b'{"model": "MODEL", "input": "x", "input": "y"}',
    b'{"model": "MODEL", "input": "x", "other": NaN, "candidates": [NaN]}',
    b'{"model": "MODEL", "input": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    b'{"model": "MODEL", "input": "x", "other": {"a": 1}, "candidates": {"a": 1}}',
    b'{"model": "MODEL", "input": "x", "other": true, "candidates": [[], []], "top": 1e400}',
    b'{"model": "MODEL", "input": "x", "candidates": [["x"], "x"], "other": [["x"]]}',
    b'{"model": "MODEL", "input": "x", "other": "y", "candidates": ["z"], "tenant": "globex", "release": "1"}',
    b"\xff\xfe",
    b"[]",
    b"",
]


@pytest.mark.parametrize("task", ["tag", "extract", "rank", "pair", "similarity"])
def test_no_body_is_our_fault_cases_27_28_36(town: Town, task: str) -> None:
    case, headers = CASES[task], {"Authorization": f"Bearer {town.token}", "Content-Type": "application/json"}
    for body in HOSTILE:
        content = body.replace(b"MODEL", case.served.encode())
        reply = HTTP.post(town.running.base + case.route, content=content, headers=headers)
        assert 400 <= reply.status_code < 500, (body[:80], reply.text)
        assert reply.json()["error"]["code"]


def test_texts_without_a_word_and_long_ones_are_answered_by_every_task(town: Town) -> None:
    odd = [" ", "\u200b", "\U0001f926\U0001f3fd\u200d♂️", "e\u0301" * 40, "שלום", "x" * 20_000]
    for task, case in CASES.items():
        more = {name: odd for name in ("other", "candidates") if name in case.asked}
        reply = town.post(task, input=odd, **more)
        assert reply.status_code == 200, (task, reply.text)
        assert len(reply.json()["results"]) == len(odd)
