"""``feilun ask`` tells what a person can read, and names the option that is missing."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
from typer.testing import CliRunner

from feilun.cli import app
from feilun.errors import DataError
from feilun.flywheel import Flywheel
from feilun.models import network
from feilun.pipeline.kinds import Model
from tests.models import tiny


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flywheel]:
    root = tmp_path_factory.mktemp("ask")
    (root / "feilun.toml").write_text('[project]\nname = "a"\n', "utf-8")
    with Flywheel(root) as opened:
        yield opened


def model(wheel: Flywheel, task: str, head: str, *labels: str) -> Model:
    folder = wheel.root / task
    net = network.load(tiny.write_base(wheel.root / "base"), tiny.CONTEXT)
    net.relabel(labels, 0, head)
    folder.mkdir(exist_ok=True)
    network.save(net, folder, task)
    return wheel.store.add(Model, folder, parents=[], facts={"format": "safetensors", "task": task})


def told(wheel: Flywheel, *words: str) -> str:
    done = CliRunner().invoke(app, ["ask", *words, "--project", str(wheel.root)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_vectors_put_candidates_in_order_by_their_cosines(wheel: Flywheel) -> None:
    made = model(wheel, "embed", "vector")
    shown = ["a dull story", "the film was fine", "two hours of the end"]
    rows = [{"text": text, "candidates": shown} for text in ("the film was fine", "its end was sad")]
    answers = wheel.ask(made.digest[:12], rows)
    query, *vectors = (
        np.array(a["vector"]) for a in wheel.ask(made.digest[:12], [{"text": t} for t in [rows[1]["text"], *shown]])
    )
    expected = sorted(((float(v @ query), text) for v, text in zip(vectors, shown, strict=True)), reverse=True)
    assert [one["text"] for one in answers[1]["ranking"]] == [text for _, text in expected]
    assert [one["score"] for one in answers[1]["ranking"]] == pytest.approx([score for score, _ in expected], abs=1e-5)
    assert answers[0]["ranking"][0] == {"text": shown[1], "score": pytest.approx(1.0, abs=1e-5)}
    said = told(wheel, made.digest[:12], "the film was fine", "--candidate", "a dull story", "--candidate", shown[1])
    assert said.index("1.0000  the film was fine") < said.index("a dull story")


def test_a_vector_is_shown_by_its_first_numbers_and_how_many_there_are(wheel: Flywheel) -> None:
    made = model(wheel, "embed", "vector")
    said = told(wheel, made.digest[:12], "the [red] film")
    assert "… (32 numbers)" in said and "the [red] film" in said and len(said) < 200
    whole = json.loads(told(wheel, made.digest[:12], "the film", "--json"))
    assert len(whole[0]["answer"]["vector"]) == 32


@pytest.mark.parametrize(
    ("task", "head", "labels", "option"),
    [
        ("rank", "number", (), "--candidate"),
        ("pair", "label", ("no", "yes"), "--other"),
        ("extract", "ends", (), "--other"),
    ],
)
def test_what_a_question_lacks_is_named_by_its_option(
    wheel: Flywheel, task: str, head: str, labels: tuple[str, ...], option: str
) -> None:
    made = model(wheel, task, head, *labels)
    with pytest.raises(DataError) as caught:
        wheel.ask(made.digest[:12], [{"text": "the film"}])
    assert caught.value.hint is not None and caught.value.hint.startswith(option)
