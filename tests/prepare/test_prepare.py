"""A source becomes a dataset: the same each time, every row accounted for, or an error before anything is trained."""

from __future__ import annotations

import json
import random

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feilun import catalog, datasets
from feilun.datasets.positions import key, position
from feilun.errors import DataError
from feilun.pipeline.kinds import Source
from feilun.pipeline.steps import STEPS, Workspace
from feilun.prepare import PrepareSettings, Split, prepare
from feilun.prepare.splitting import split

SENTENCE = "the film was good bad long short slow and but people music story never always made me laugh cry"
WORDS = SENTENCE.split()


def made(count: int, seed: int = 0) -> list[dict[str, str]]:
    chance = random.Random(seed)
    return [
        {"text": " ".join(chance.choices(WORDS, k=chance.randint(3, 15))), "label": chance.choice("ab")}
        for _ in range(count)
    ]


def test_the_step_is_registered_with_its_input_and_output():
    step = STEPS["prepare"]
    assert [(i.name, i.optional) for i in step.inputs] == [("source", False), ("held_out", True)]
    assert (step.settings, step.output.kind) == (PrepareSettings, "dataset")


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.randoms(), st.integers(80, 300))
def test_the_order_of_the_rows_does_not_matter(run, chance, count):
    rows = made(count)
    shuffled = chance.sample(rows, count)
    first, card = run(rows)
    second, other = run(shuffled)
    assert (first.path / "data.parquet").read_bytes() == (second.path / "data.parquet").read_bytes()
    assert {**card, "source": ""} == {**other, "source": ""}


def test_every_row_is_kept_or_counted(run):
    rows = [*made(200), *made(50), {"text": " \n", "label": "a"}, {"text": "x", "label": "b"}, {"text": None}]
    rows += [{"text": "no label here", "label": None}, {"text": "blank label here", "label": " "}]
    rows += [{"text": "y" * 5_000, "label": "a"}]
    dataset, card = run(rows, min_characters=2, max_characters=1_000)
    assert card["rows_read"] == len(rows) == card["rows"] + sum(card["removed"].values())
    removed = card["removed"]
    assert (removed["without_text"], removed["without_label"]) == (2, 2)
    assert (removed["too_short"], removed["too_long"]) == (1, 1)
    assert removed["exact_duplicates"] >= 50 - removed["tied_labels"]
    assert sum(n for labels in card["labels"].values() for n in labels.values()) == card["rows"]
    assert dataset.facts["rows"] == card["rows"] == datasets.read(dataset).height
    assert dataset.facts["licence"] == card["licence"] == "CC0-1.0"
    assert card["source"] == dataset.parents[0]


def test_the_same_run_again_is_the_same_artefact(run):
    assert run(made(100))[0].digest == run(made(100))[0].digest


KEYS = st.lists(st.text(max_size=30), unique=True, max_size=40)


@given(KEYS, st.floats(0, 1))
def test_a_row_s_split_depends_on_its_text_alone(keys, share):
    shares = Split(train=1 - share, test=share)
    together = split(pl.DataFrame({"key": pl.Series(keys, dtype=pl.String)}), shares)
    alone = [split(pl.DataFrame({"key": [k]}), shares)["split"][0] for k in keys]
    assert together["split"].to_list() == alone


@given(st.text(max_size=30), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_test_share_only_adds_to_test(text, one, other):
    place = position(key(text))
    assert 0 <= place < 1
    if place < min(one, other):
        assert place < max(one, other)


def test_the_shares_are_those_asked_for():
    places = [position(f"text {n}") for n in range(20_000)]
    assert sum(place < 0.2 for place in places) / len(places) == pytest.approx(0.2, abs=0.012)


def test_a_position_never_changes():
    assert position("a film") == 0.6950388036280586


def test_a_limit_takes_a_sample_that_does_not_depend_on_the_order(run):
    rows = made(300)
    first, card = run(rows, limit=100)
    second, _ = run(rows[::-1], limit=100)
    assert datasets.read(first).equals(datasets.read(second))
    assert datasets.read(first).height == 100
    assert card["removed"]["over_limit"] > 0


def test_all_rows_can_go_to_one_split(run):
    assert run(made(60), split={"train": 1, "test": 0})[0].facts["splits"]["test"] == 0
    assert run(made(60), split={"train": 0, "test": 1})[0].facts["splits"]["train"] == 0


ERRORS = {
    "one class": (lambda: [{**row, "label": "a"} for row in made(50)], {}, "every row has the label 'a'"),
    "missing column": (lambda: [{"text": "x"}], {}, "there is no column 'label'"),
    "all null": (lambda: [{**row, "label": None} for row in made(50)], {}, "the column 'label' is empty in every row"),
    "nothing long enough": (lambda: made(50), {"min_characters": 500}, "no row is left"),
    "too few rows": (lambda: made(2, 3), {"split": {"train": 0.99, "test": 0.01}}, "no row falls into test"),
    "unseen label": (
        lambda: [
            *made(50),
            {"text": next(f"rare {n}" for n in range(99) if position(f"rare {n}") < 0.2), "label": "c"},
        ],
        {},
        "the label 'c' is in test but not in train",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_what_cannot_be_learned_from_is_refused_before_training_case_44(run, case):
    rows, given, what = ERRORS[case]
    with pytest.raises(DataError, match=what) as caught:
        run(rows(), **given)
    assert str(caught.value.where).startswith("rows.jsonl")


def test_a_csv_in_another_encoding_without_a_header_is_read_as_the_settings_say(store, tmp_path):
    body = "".join(f"Un café numéro {n * 7919};{'ab'[n % 2]}\n" for n in range(40)).replace(";", ",")
    for name in ("files", "folder", "scratch"):
        (tmp_path / name).mkdir()
    (tmp_path / "files" / "rows.csv").write_bytes(body.encode("latin-1"))
    source = store.add(Source, tmp_path / "files", parents=[], facts={"format": "csv", "origin": "rows.csv"})
    given = PrepareSettings(encoding="latin-1", columns=("text", "label"), near_duplicate=1)
    dataset = prepare(source, given, Workspace(store, tmp_path / "folder", tmp_path / "scratch"))
    assert datasets.read(dataset).height == 40
    assert all("café" in text for text in datasets.read(dataset)["text"])


def test_the_tweets_are_prepared_as_the_demo_needs_them(store, tmp_path):
    fetched = catalog.fetch("catalog:vader-reviews/tweets", Source, root=tmp_path)
    source = store.add(Source, fetched.files, parents=[], facts=fetched.facts)
    bands = [{"label": "negative", "to": -1}, {"label": "positive", "from": 1}, {"label": "neutral"}]
    given = {"label": "rating", "bands": bands, "domain": "tweets", "contributor": {"column": "id", "until": "_"}}
    (tmp_path / "folder").mkdir()
    work = Workspace(store, tmp_path / "folder", tmp_path / "scratch")
    dataset = prepare(source, PrepareSettings.model_validate(given), work)
    card = json.loads((dataset.path / "card.json").read_text())
    assert dataset.facts["labels"] == ["negative", "neutral", "positive"]
    assert card["rows_read"] == 4_200 == card["rows"] + sum(card["removed"].values())
    assert card["removed"]["leaked_into_train"] > 0
    assert dataset.facts["splits"]["test"] / dataset.facts["rows"] == pytest.approx(0.2, abs=0.02)
