"""Altered texts: more to learn from, the truth untouched, and their effect told."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import feilun.finetune.step  # noqa: F401 - registers the step
from feilun import datasets
from feilun.errors import SettingError
from feilun.finetune import augmenting
from feilun.finetune.settings import FinetuneSettings
from feilun.pipeline.kinds import Model
from tests.models import tiny

NEAR = {"good": ["fine", "great"], "bad": ["poor"], "film": ["movie"]}


def options(**given: object) -> FinetuneSettings:
    return FinetuneSettings.model_validate({"augment_compare": False, **given})


def rows(*texts: str, **columns: object) -> pl.DataFrame:
    made = [{"id": f"row-{n}", "text": text, "label": "ab"[n % 2], **columns} for n, text in enumerate(texts)]
    return pl.DataFrame(made)


def test_each_way_alters_a_share_of_the_words() -> None:
    text = "this is a good film and that was a bad one of the same kind by others"
    words = text.split()
    more = augmenting.more(
        rows(text), options(augment=["delete", "swap", "synonyms"], augment_copies=3, augment_share=0.2), 0, NEAR
    )
    dropped, swapped, replaced = (new.split() for new in more["text"])
    assert len(dropped) == len(words) - 3
    assert sorted(swapped) == sorted(words)
    assert sum(a != b for a, b in zip(swapped, words, strict=True)) == 6
    changed = {(a, b) for a, b in zip(words, replaced, strict=True) if a != b}
    assert len(changed) == 3
    assert all(new in NEAR[old] for old, new in changed)
    assert more["label"].to_list() == ["a"] * 3


@given(st.permutations(range(8)), st.integers(0, 5))
def test_a_row_s_copy_depends_on_it_alone(order: list[int], seed: int) -> None:
    frame = rows(*(f"good film number {n} with more words than one" for n in range(8)))
    given = options(augment=["delete", "swap", "synonyms"], augment_copies=3)
    one = augmenting.more(frame, given, seed, NEAR)
    other = augmenting.more(frame[order], given, seed, NEAR)
    assert one.sort("id").equals(other.sort("id"))
    assert not one["id"].is_duplicated().any()


WORDS = ["good", "film", "Lima", "bad", "好", "电", "and", ",", "。"]


@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=12), st.sampled_from(["delete", "swap", "synonyms"]))
def test_names_stay_what_they_are_wherever_they_move(words: list[str], way: str) -> None:
    text = " ".join(words)
    starts = [sum(len(w) + 1 for w in words[:n]) for n in range(len(words))]
    spans = [{"start": s, "end": s + 4, "label": "place"} for s, w in zip(starts, words, strict=True) if w == "Lima"]
    frame = pl.DataFrame(
        {"id": ["x"], "text": [text], "spans": [spans]},
        schema={"id": pl.String, "text": pl.String, "spans": datasets.TRUTH["spans"]},
    )
    for row in augmenting.more(frame, options(task="tag", augment=[way], augment_share=0.5), 1, NEAR).to_dicts():
        assert len(row["spans"]) == len(spans)
        assert all(row["text"][s["start"] : s["end"]] == "Lima" for s in row["spans"])


def test_what_cannot_be_altered_is_left_out() -> None:
    assert augmenting.more(rows("one", "!!", ""), options(augment=["delete", "swap", "synonyms"]), 0, {}).height == 0
    assert augmenting.more(rows("a b", "c, d"), options(augment=["swap"]), 0, {})["text"].to_list() == ["b a"]


def test_the_nearest_words_are_those_that_counting_finds() -> None:
    chance = np.random.default_rng(3)
    words = [f"w{a}{b}" for a in "abcdefghij" for b in "abcdefghij"]
    points = {w: chance.normal(size=6) for w in words}
    vectors = lambda asked: np.stack([points[w] for w in asked])  # noqa: E731
    found = augmenting.nearest([" ".join(words)] * 2, vectors)
    centred = {w: p - np.mean(list(points.values()), axis=0) for w, p in points.items()}
    for word in random.Random(0).sample(words, 20):
        cosine = {
            w: float(p @ centred[word] / np.linalg.norm(p) / np.linalg.norm(centred[word]))
            for w, p in centred.items()
            if w != word
        }
        best = sorted((w for w in cosine if cosine[w] >= augmenting.LEAST), key=lambda w: -cosine[w])
        assert found.get(word, []) == best[: augmenting.NEAREST]


def test_paraphrases_take_the_place_of_texts_and_a_repeated_text_is_no_paraphrase() -> None:
    said = {"a good film": "a fine movie", "a bad film": "A bad film", "third": ""}
    more = augmenting.more(rows(*said), options(augment=["paraphrase"]), 0, {}, lambda texts: [said[t] for t in texts])
    assert more.select("id", "text", "label").rows() == [("row-0-paraphrase-0", "a fine movie", "a")]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[tiny.Bench]:
    made = tiny.Bench(tmp_path)
    yield made
    made.store.database.close()


def test_the_effect_of_altered_texts_is_a_fact_of_the_model(bench: tiny.Bench) -> None:
    given = {**tiny.QUICK, "epochs": 4, "augment": ["delete", "synonyms"], "augment_copies": 2, "held_out": 0.2}
    tuned = bench.run("finetune", Model, given, base=bench.base(), examples=bench.examples())
    told = tuned.facts["augmentation"]
    assert told["rows"] == 36
    assert tuned.facts["rows"] == 144 + tuned.facts["altered"]
    assert 144 <= tuned.facts["altered"] <= 288
    assert told["figure"] == "macro_f1"
    assert told["difference"] == pytest.approx(told["with"] - told["without"], abs=1e-3)
    assert told["interval"][0] <= told["difference"] <= told["interval"][1]


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"augment_copies": 2}, "has no effect without 'augment'"),
        ({"augment": ["delete"]}, "set held_out"),
        ({"augment": ["delete"], "task": "generate", "held_out": 0.1}, "not for task = 'generate'"),
        ({"augment": ["paraphrase"], "task": "tag", "held_out": 0.1}, "does not say where the names are"),
        ({"augment": ["shuffle"], "held_out": 0.1}, "delete"),
    ],
)
def test_settings_of_augmentation_that_make_no_sense_are_refused(wrong: dict[str, object], what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        FinetuneSettings.model_validate(wrong)


def test_a_paraphrase_needs_a_model_that_writes(bench: tiny.Bench) -> None:
    given = {**tiny.QUICK, "augment": ["paraphrase"], "held_out": 0.2}
    with pytest.raises(SettingError, match="needs a model that writes"):
        bench.run("finetune", Model, given, base=bench.base(), examples=bench.examples())
