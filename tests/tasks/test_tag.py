from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
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
from feilun.tasks import tag, windows
from feilun.tasks.options import TaskOptions
from tests.models import tiny

TAGS = ("B-bad", "B-good", "I-bad", "I-good", "O")
SCHEMA = {"spans": pl.List(pl.Struct({"start": pl.Int64, "end": pl.Int64, "label": pl.String}))}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tiny.Bench]:
    made = tiny.Bench(tmp_path_factory.mktemp("tag"))
    yield made
    made.store.database.close()


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> network.Network:
    made = network.load(tiny.write_base(tmp_path_factory.mktemp("base")), 20)
    made.relabel(TAGS, seed=0, head="tokens")
    return made


def row(*parts: str | tuple[str, str], identity: str = "row", split: str = "train") -> dict[str, Any]:
    """A row of words and (words, label)."""
    text, spans = "", []
    for part in parts:
        words, label = (part, None) if isinstance(part, str) else part
        text += " " if text else ""
        if label:
            spans.append({"start": len(text), "end": len(text) + len(words), "label": label})
        text += words
    return {"id": identity, "text": text, "spans": spans, "split": split, "contributor": identity, "domain": "films"}


def frame(rows: int = 200) -> pl.DataFrame:
    """Texts of 5 to 90 words, so longer than the context; words of praise or blame, one or two, are spans."""
    chance = random.Random(0)
    made = []
    for i in range(rows):
        parts: list[str | tuple[str, str]] = []
        for _ in range(chance.randint(2, 20)):
            parts += chance.choices(tiny.FILLER, k=chance.randint(1, 4))
            label = chance.choice(["bad", "good"])
            first, second = tiny.SAYS[label][:2], tiny.SAYS[label][2:]
            parts.append((" ".join([chance.choice(first), *chance.sample(second, chance.randint(0, 1))]), label))
        made.append(row(*parts, identity=f"row-{i:04d}", split="test" if i % 4 == 3 else "train"))
    return pl.DataFrame(made, schema_overrides=SCHEMA)


@pytest.fixture(scope="module")
def tuned(bench: tiny.Bench) -> Model:
    rows = bench.examples(frame())
    settings = {**tiny.QUICK, "task": "tag", "epochs": 6}
    return bench.run("finetune", Model, settings, base=bench.base(), examples=rows)


def test_a_tuned_model_finds_spans_to_the_character_in_texts_longer_than_its_context(tuned: Model) -> None:
    held_out = frame().filter(pl.col("split") == "test")
    answered = tasks.ask(tuned, held_out)
    figures = {m.name: m.figure for m in tag.measure(held_out, answered, tuned.facts["labels"])}
    assert figures["f1"] > 0.95
    assert max(len(t.split()) for t in held_out["text"]) > 2 * tiny.CONTEXT
    for text, said in zip(held_out["text"], answered.said, strict=True):
        for span in said["spans"]:
            assert text[span["start"] : span["end"]] == span["text"] and 0 < span["score"] <= 1
    assert tuned.facts["task"] == "tag" and tuned.facts["labels"] == list(TAGS)


@pytest.mark.parametrize("quantise", ["none", "int8", "int8-static"])
def test_a_compressed_model_finds_the_same_spans(bench: tiny.Bench, tuned: Model, quantise: str) -> None:
    rows = frame()
    made = bench.run("compress", Model, {"quantise": quantise}, model=tuned, examples=bench.examples(rows))
    before, after = (tasks.ask(model, rows) for model in (tuned, made))

    def places(said: dict[str, Any]) -> list[tuple[int, int, str]]:
        return [(span["start"], span["end"], span["label"]) for span in said["spans"]]

    same = [places(a) == places(b) for a, b in zip(before.said, after.said, strict=True)]
    assert np.mean(same) >= (1.0 if quantise == "none" else 0.9)


words = st.sampled_from(["film", "fine", "！", "story", "dull", "two"])
parts = st.lists(
    st.one_of(
        words, st.tuples(st.lists(words, min_size=1, max_size=3).map(" ".join), st.sampled_from(["bad", "good"]))
    ),
    min_size=1,
    max_size=40,
)


@settings(deadline=None)
@given(parts)
def test_spans_survive_becoming_tags_and_coming_back(net: network.Network, parts: list[str | tuple[str, str]]) -> None:
    made = row(*parts)
    (pieces,), _ = windows.cut(net.tokenizer, [made["text"]])
    targets = tag.encode(pieces, made["spans"], {t: i for i, t in enumerate(TAGS)})
    found = tag.decode(made["text"], pieces, np.eye(5, dtype=np.float32)[targets], TAGS)
    assert [{k: s[k] for k in ("start", "end", "label")} for s in found] == made["spans"]


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(0, 10_000))
def test_the_best_row_of_tags_is_the_best_of_all_that_are_possible(length: int, seed: int) -> None:
    scores = np.random.default_rng(seed).dirichlet(np.full(5, 0.5), length).astype(np.float32)

    def possible(numbers: tuple[int, ...]) -> bool:
        before = "O"
        for number in numbers:
            if TAGS[number].startswith("I-") and before[1:] != TAGS[number][1:]:
                return False
            before = TAGS[number]
        return True

    every = [p for p in itertools.product(range(5), repeat=length) if possible(p)]
    weigh = {p: float(np.log(np.maximum(scores[range(length), list(p)], 1e-30)).sum()) for p in every}
    found = tuple(tag.best(scores, TAGS))
    assert found in weigh and weigh[found] == pytest.approx(max(weigh.values()))


def test_each_piece_has_one_loss_whatever_the_batch(net: network.Network) -> None:
    examples = tag.examples(frame(12), net, TaskOptions())
    together = tag.losses(net, examples, range(len(examples))).detach()
    alone = torch.cat([tag.losses(net, examples, [i]).detach() for i in range(len(examples))])
    torch.testing.assert_close(together, alone)
    told = sum(int((row >= 0).sum()) for row in examples.targets)
    assert told == sum(len(text.split()) for text in frame(12)["text"]) < sum(examples.lengths)
    expected = 0.0
    for ids, target in zip(examples.rows, examples.targets, strict=True):
        logits = net(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.long))[0].detach()
        expected += float(torch.nn.functional.cross_entropy(logits, torch.from_numpy(target), reduction="sum"))
    assert float(together.mean()) == pytest.approx(expected / told, rel=1e-4)  # the mean row is the mean piece


def test_a_character_of_two_pieces_is_in_one_span_only() -> None:
    pieces = windows.Pieces([0, 1, 2], [0, 0, 1], [1, 1, 2])
    scores = np.eye(5, dtype=np.float32)[[0, 1, 4]]  # B-bad and B-good on the same character
    found = tag.decode("xy", pieces, scores, TAGS, whole=False)
    assert [(s["start"], s["end"], s["label"]) for s in found] == [(0, 1, "bad")]


PARTS = ["Pri", "ya", "Zoë", "\u0301", "3", "kg", "北", "京", "ひ", "🎉", "👩\u200d🚀", "-", " ", "  ", "한", "서"]


@settings(deadline=None)
@given(st.lists(st.sampled_from(PARTS), min_size=1, max_size=12), st.integers(0, 10_000))
def test_whatever_the_pieces_say_no_span_ends_within_a_word_and_none_has_an_emoji_at_its_end(
    parts: list[str], seed: int
) -> None:
    text = "".join(parts)
    ends = list(itertools.accumulate(len(part) for part in parts))
    starts = [0, *ends[:-1]]
    blank = [end if part.isspace() else start for part, start, end in zip(parts, starts, ends, strict=True)]
    pieces = windows.Pieces(list(range(len(parts))), blank, ends)
    scores = np.random.default_rng(seed).dirichlet(np.full(5, 0.3), len(parts)).astype(np.float32)
    found = tag.decode(text, pieces, scores, TAGS)
    for span in found:
        start, end = span["start"], span["end"]
        assert text[start:end] == span["text"] and start < end and 0 < span["score"] <= 1
        for place in (start, end):
            beside = text[max(0, place - 1) : place + 1]
            assert not (len(beside) == 2 and beside.isascii() and beside.isalnum())
        if any(sign.isalnum() for sign in span["text"]):
            assert span["text"][0] not in "🎉👩🚀 " and span["text"][-1] not in "🎉👩🚀 "
    assert all(a["end"] <= b["start"] for a, b in itertools.pairwise(found))


def test_a_word_decides_as_one_and_its_score_is_not_that_of_a_piece_that_was_overruled() -> None:
    text = "to Priya 🎉 now"
    pieces = windows.Pieces([0, 1, 2, 3, 4], [0, 3, 6, 9, 11], [2, 6, 8, 10, 14])
    scores = np.full((5, 5), 0.001, np.float32)
    for piece, number in enumerate((4, 1, 4, 3, 4)):  # O, B-good, O within the name, I-good on the emoji, O
        scores[piece, number] = 0.996
    scores[2] = (0.001, 0.001, 0.001, 0.447, 0.55)  # not quite sure that "ya" goes on
    (said,) = tag.decode(text, pieces, scores, TAGS)
    assert (said["start"], said["end"], said["text"], said["label"]) == (3, 8, "Priya", "good")
    assert said["score"] > 0.5
    assert tag.decode(text, pieces, scores, TAGS, whole=False)[0]["text"] != "Priya"


def test_spans_that_are_parts_of_words_are_learned_as_such(net: network.Network) -> None:
    for end, whole in ((9, True), (8, False)):
        net.decided = {}
        made = row("the story") | {"spans": [{"start": 4, "end": end, "label": "bad"}]}
        tag.examples(pl.DataFrame([made], schema_overrides=SCHEMA), net, TaskOptions())
        assert net.decided == {"whole_words": whole}
    net.decided = {}


def test_an_empty_text_has_no_span(tuned: Model) -> None:
    asked = pl.DataFrame({"text": ["", "  ", "the film"]})
    assert [said["spans"] for said in tasks.ask(tuned, asked).said][:2] == [[], []]


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([(0, 3, "bad"), (2, 5, "good")], "two spans overlap"),
        ([(0, 99, "bad")], "not within its text"),
        ([(3, 3, "bad")], "not within its text"),
        ([(0, 3, "ugly")], "label 'ugly'"),
    ],
)
def test_spans_that_cannot_be_are_refused_with_their_row_case_44(
    net: network.Network, spans: list[tuple[int, int, str]], message: str
) -> None:
    bad = row("the film", identity="odd") | {
        "spans": [dict(zip(("start", "end", "label"), s, strict=True)) for s in spans]
    }
    with pytest.raises(DataError, match=message) as error:
        tag.examples(pl.DataFrame([row("a film", identity="fine"), bad], schema_overrides=SCHEMA), net, TaskOptions())
    assert "spans" in str(error.value)


def test_rows_without_any_span_are_refused_case_44() -> None:
    with pytest.raises(DataError, match="the training rows have none"):
        tag.labels(pl.DataFrame({"spans": [[], []]}, schema=SCHEMA))


def test_a_classifier_as_base_leaves_none_of_its_labels(bench: tiny.Bench, tuned: Model, tmp_path: Path) -> None:
    rows = bench.examples()
    classifier = bench.run("finetune", Model, {**tiny.QUICK, "epochs": 1}, base=tuned, examples=rows)
    assert classifier.facts["labels"] == ["bad", "fair", "good"]
