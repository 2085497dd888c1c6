from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import feilun.compress.step
import feilun.finetune.step  # noqa: F401 - registers the step
from feilun import tasks
from feilun.errors import DataError
from feilun.models import network
from feilun.pipeline.kinds import Model
from feilun.tasks import extract
from feilun.tasks.options import TaskOptions
from tests.models import tiny

SCHEMA = {"answers": pl.List(pl.Struct({"start": pl.Int64, "text": pl.String}))}
ASKED = "its story"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tiny.Bench]:
    made = tiny.Bench(tmp_path_factory.mktemp("extract"))
    yield made
    made.store.database.close()


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> network.Network:
    made = network.load(tiny.write_base(tmp_path_factory.mktemp("base")), 24)
    made.relabel([], seed=0, head="ends")
    return made


def frame(rows: int = 240) -> pl.DataFrame:
    """A text of up to 90 words, so longer than the context; "fine warm" in it is the answer, a third has none."""
    chance = random.Random(0)
    made: list[dict[str, Any]] = []
    for i in range(rows):
        words = chance.choices([*tiny.FILLER, *tiny.SAYS["bad"]], k=chance.randint(3, 90))
        answers = []
        if i % 3:
            place = chance.randint(0, len(words))
            answers = [{"start": sum(len(w) + 1 for w in words[:place]), "text": "fine warm"}]
            words.insert(place, "fine warm")
        made.append(
            {
                "id": f"row-{i:04d}", "text": ASKED, "other": " ".join(words), "answers": answers,
                "split": "test" if i % 4 == 3 else "train", "contributor": f"row-{i}", "domain": "films",
            }
        )  # fmt: skip
    return pl.DataFrame(made, schema_overrides=SCHEMA)


@pytest.fixture(scope="module")
def tuned(bench: tiny.Bench) -> Model:
    settings = {**tiny.QUICK, "task": "extract", "epochs": 8}
    return bench.run("finetune", Model, settings, base=bench.base(), examples=bench.examples(frame()))


def test_a_tuned_model_answers_to_the_character_from_texts_longer_than_its_context(tuned: Model) -> None:
    held_out = frame().filter(pl.col("split") == "test")
    answered = tasks.ask(tuned, held_out)
    figures = {m.name: m.figure for m in extract.measure(held_out, answered, [])}
    assert figures["exact_match"] > 0.9 and figures["token_f1"] > 0.9 and figures["knows_whether"] > 0.9
    for text, answers, said in zip(held_out["other"], held_out["answers"].to_list(), answered.said, strict=True):
        assert said["answer"] == (text[said["start"] : said["end"]] if said["score"] > 0.5 else "")
        if said["answer"] == "fine warm":
            assert said["start"] == answers[0]["start"]
    assert tuned.facts["task"] == "extract" and tuned.facts["labels"] == []


def test_how_sure_an_answer_must_be_is_chosen_on_held_out_rows_and_travels_with_the_model(
    bench: tiny.Bench, net: network.Network
) -> None:
    rows = frame(90)
    assert extract.decide(net, rows.clear(), TaskOptions()) == {}
    least = extract.decide(net, rows, TaskOptions())["least"]  # the network knows nothing: "none" is right most often
    settings = {**tiny.QUICK, "task": "extract", "epochs": 1, "held_out": 0.3, "watch": "loss"}
    model = bench.run("finetune", Model, settings, base=bench.base(), examples=bench.examples(rows))
    decided = tasks.get("extract").load(model).decided
    assert isinstance(decided["least"], float) and isinstance(least, float)
    engine = network.Answering(net)
    before = extract.answer(engine, rows)
    engine.decided = {"least": 2.5}
    np.testing.assert_allclose(extract.answer(engine, rows).raw, before.raw - 2.5)


@pytest.mark.parametrize("quantise", ["none", "int8-static"])
def test_a_compressed_model_gives_the_same_answers(bench: tiny.Bench, tuned: Model, quantise: str) -> None:
    rows = frame()
    wide = {"quantise": quantise, "max_disagreement": 0.1}
    made = bench.run("compress", Model, wide, model=tuned, examples=bench.examples(rows))
    before, after = (tasks.ask(model, rows) for model in (tuned, made))
    same = [a["answer"] == b["answer"] for a, b in zip(before.said, after.said, strict=True)]
    assert np.mean(same) >= (1.0 if quantise == "none" else 0.9)


@settings(deadline=None)
@given(st.integers(1, 80), st.integers(0, 1000))
def test_the_best_answer_is_the_best_of_all_that_are_short_enough(length: int, seed: int) -> None:
    logits = np.random.default_rng(seed).normal(size=(length, 2))
    every = {
        (i, j): logits[i, 0] + logits[j, 1] for i in range(length) for j in range(i, min(length, i + extract.LONGEST))
    }
    start, end, score = extract.best(logits)
    assert every[start, end] == pytest.approx(score) and score == pytest.approx(max(every.values()))


def test_a_target_is_where_the_answer_stands_and_none_in_a_window_without_it(net: network.Network) -> None:
    rows = frame(40)
    examples = extract.examples(rows, net, TaskOptions())
    vocabulary = net.tokenizer.get_vocab()
    fine, warm = vocabulary["fine"], vocabulary["warm"]
    for ids, (start, end) in zip(examples.rows, examples.targets, strict=True):
        if fine in ids and warm in ids:
            assert (ids[start], ids[end], end) == (fine, warm, start + 1)
        else:
            assert (start, end) == (extract.NONE, extract.NONE)
    assert len(examples) > len(rows)


def test_a_row_has_the_same_loss_in_any_batch_and_none_outside_the_second_text(net: network.Network) -> None:
    examples = extract.examples(frame(20), net, TaskOptions())
    together = extract.losses(net, examples, range(len(examples))).detach()
    alone = torch.cat([extract.losses(net, examples, [i]).detach() for i in range(len(examples))])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    ids, (first, last), (start, end) = examples.rows[1], examples.places[1], examples.targets[1]
    logits = net(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.long))[0].detach()
    open_to = [extract.NONE, *range(first, last)]
    starts, ends = logits[open_to, 0].log_softmax(0), logits[open_to, 1].log_softmax(0)
    expected = -(starts[open_to.index(int(start))] + ends[open_to.index(int(end))]) / 2
    assert float(alone[1]) == pytest.approx(float(expected), rel=1e-4)


def test_an_empty_text_has_no_answer(tuned: Model) -> None:
    asked = pl.DataFrame({"text": [ASKED, ASKED], "other": ["", "  "]})
    assert [said["answer"] for said in tasks.ask(tuned, asked).said] == ["", ""]


@pytest.mark.parametrize(
    "answer", [{"start": 1, "text": "fine"}, {"start": 99, "text": "fine"}, {"start": 0, "text": ""}]
)
def test_an_answer_that_is_not_there_is_refused_with_its_row_case_44(
    net: network.Network, answer: dict[str, Any]
) -> None:
    bad = frame(2).with_columns(other=pl.lit("fine film"), answers=pl.Series([[], [answer]], dtype=SCHEMA["answers"]))
    with pytest.raises(DataError, match="does not stand at") as error:
        extract.examples(bad, net, TaskOptions())
    assert "row-0001" in str(error.value)


def test_rows_without_any_answer_are_refused_case_44() -> None:
    with pytest.raises(DataError, match="the training rows have none"):
        extract.labels(pl.DataFrame({"answers": [[], []]}, schema=SCHEMA))
