"""What a card says of how to answer without feilun is run as it stands there, and answers as feilun does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from feilun import tasks
from feilun.models import card, causal, heads, network, snippets
from feilun.models.export import export
from feilun.pipeline.kinds import Model
from feilun.tasks import extract
from tests.models import tiny, tiny_causal

TEXT, OTHER = "the film was fine and its end was sad", "a story of two hours"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tiny.Bench]:
    made = tiny.Bench(tmp_path_factory.mktemp("snippets"))
    yield made
    made.store.database.close()


def exported(bench: tiny.Bench, task: str, *labels: str, **decided: Any) -> tuple[Model, Path]:
    net = network.load(tiny.write_base(bench.folder / "base"), tiny.CONTEXT)
    net.relabel(labels, 0, snippets.HEADS[task])
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in net.head.parameters():
            parameter.normal_(std=0.5)
        if snippets.HEADS[task] == "number":
            net.head.centre.fill_(4.0)
            net.head.spread.fill_(1.5)
    net.decided = decided
    folder = bench.folder / task
    folder.mkdir()
    network.save(net, folder, task)
    model = bench.model(folder, format="safetensors", task=task, labels=list(labels), context=tiny.CONTEXT)
    to = bench.folder / "hub" / task
    export(bench.store, model, card.of(bench.store, model), to)
    return model, to


def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    (code,) = re.findall(r"```python\n(.*?)```", (folder / card.FILE).read_text(), re.DOTALL)
    monkeypatch.chdir(folder)
    code = code.replace("a text", TEXT).replace("another text", OTHER).replace("a question", "what was fine ?")
    names: dict[str, Any] = {}
    exec(compile(code, str(folder / card.FILE), "exec"), names)
    return names


@pytest.mark.parametrize("task", ["classify", "pair"])
def test_a_label(bench: tiny.Bench, monkeypatch: pytest.MonkeyPatch, task: str) -> None:
    model, folder = exported(bench, task, "bad", "good", "so")
    said = tasks.ask(model, pl.DataFrame({"text": [TEXT], "other": [OTHER]})).said[0]
    assert run(folder, monkeypatch)["answer"] == pytest.approx(said["scores"], abs=1e-5)


def test_labels_from_their_threshold_on(bench: tiny.Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = [f"label-{i}" for i in range(12)]
    model, folder = exported(bench, "multilabel", *labels, threshold=0.3)
    said = tasks.ask(model, pl.DataFrame({"text": [TEXT]})).said[0]
    assert 0 < len(said["labels"]) < 12 and any(0.3 <= score < 0.5 for score in said["scores"].values())
    assert set(run(folder, monkeypatch)["answer"]) == set(said["labels"])


@pytest.mark.parametrize("task", ["regress", "similarity", "rank"])
def test_a_number_with_its_centre_and_spread(bench: tiny.Bench, monkeypatch: pytest.MonkeyPatch, task: str) -> None:
    model, folder = exported(bench, task)
    asked = pl.DataFrame({"text": [TEXT], "other": [OTHER]})
    if task == "rank":
        said = tasks.ask(model, asked.select("text", candidates=pl.concat_list("other"))).said[0]["ranking"][0]
    else:
        said = tasks.ask(model, asked).said[0]
    assert run(folder, monkeypatch)["answer"] == pytest.approx(said["score"], abs=1e-4)


def test_a_vector(bench: tiny.Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    model, folder = exported(bench, "embed")
    said = tasks.ask(model, pl.DataFrame({"text": [TEXT]})).said[0]
    np.testing.assert_allclose(run(folder, monkeypatch)["answer"], said["vector"], atol=1e-5)


def test_a_tag_for_each_token(bench: tiny.Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    model, folder = exported(bench, "tag", "B-bad", "I-bad", "O")
    raw = tasks.ask(model, pl.DataFrame({"text": [TEXT]})).raw[0]
    names = run(folder, monkeypatch)
    np.testing.assert_allclose(names["scores"][1:-1].numpy(), raw, atol=1e-5)
    tags = [("B-bad", "I-bad", "O")[i] for i in raw.argmax(1)]
    assert names["answer"][1:-1] == list(zip(TEXT.split(), tags, strict=True))


@pytest.mark.parametrize("least", [-1000.0, 1000.0])
def test_an_answer_and_that_there_is_none(bench: tiny.Bench, monkeypatch: pytest.MonkeyPatch, least: float) -> None:
    model, folder = exported(bench, "extract", least=least) if least < 0 else _other_least(bench, least)
    answered = extract.answer(tasks.of(model).load(model), pl.DataFrame({"text": [TEXT], "other": [OTHER]}))
    names = run(folder, monkeypatch)
    assert names["answer"] == answered.said[0]["answer"] and bool(names["answer"]) == (least < 0)
    assert names["lead"] == pytest.approx(float(answered.raw[0]), abs=1e-3)


def _other_least(bench: tiny.Bench, least: float) -> tuple[Model, Path]:
    bench.folder = bench.folder / "none"
    bench.folder.mkdir()
    made = exported(bench, "extract", least=least)
    bench.folder = bench.folder.parent
    return made


def test_words(bench: tiny.Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    base = causal.load(tiny_causal.write_base(bench.folder / "writer-base"))
    folder = bench.folder / "writer"
    folder.mkdir()
    causal.save(base, folder)
    model = bench.model(folder, format="safetensors", task="generate", context=64)
    to = bench.folder / "hub" / "writer"
    export(bench.store, model, card.Told(model.facts, (), {"answer_tokens": 5}, model.digest), to)
    asked = pl.DataFrame({"messages": [[{"role": "user", "content": "what was fine ?"}]]})
    said = tasks.ask(model, asked).said[0]
    answer = run(to, monkeypatch)["answer"]
    assert answer and next(iter(said.values())).startswith(answer)


def test_every_head_has_its_program_and_what_only_feilun_can_answer_says_so(bench: tiny.Bench) -> None:
    assert snippets.ANSWERS.keys() == heads.SHAPES.keys()
    assert {name: tasks.get(name).HEAD for name in tasks.NAMES if name not in ("generate", "prefer")} == snippets.HEADS
    told = card.Told({"task": "classify", "format": "safetensors", "method": "prompt"}, (), {})
    assert "Only feilun can answer" in card.render(bench.store, told, "bert")


def test_nothing_is_reported_as_missing_when_the_program_loads_the_network(
    bench: tiny.Bench, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run(bench.folder / "hub" / "classify", monkeypatch)
    said = capfd.readouterr()
    assert "MISSING" not in said.out + said.err and "pooler" not in said.out + said.err
