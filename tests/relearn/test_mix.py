"""From corrections to what is learned from: consent, watermarks, and which side of a split a sentence stays on."""

from __future__ import annotations

import json

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert, select
from ulid import ULID

from feilun import datasets
from feilun.accounts import tenants
from feilun.datasets.positions import key, position
from feilun.errors import DataError
from feilun.feedback.settings import FeedbackSettings
from feilun.feedback.step import feedback
from feilun.pipeline.kinds import Dataset, Release
from feilun.pipeline.steps import Workspace
from feilun.relearn.settings import MixSettings
from feilun.relearn.step import mix, still_allowed, unlearned
from feilun.store import consents, releases, tables
from feilun.store.artifacts import ArtifactStore
from feilun.store.database import now_us

FOREVER = 2**60
PEOPLE = ("ann", "bob", "cem")


@pytest.fixture
def store(database, tmp_path):
    return ArtifactStore(tmp_path / "artifacts", database)


@pytest.fixture
def release(store, tmp_path):
    folder = tmp_path / "release"
    folder.mkdir()
    (folder / "release.json").write_text("{}")
    made = store.add(Release, folder, parents=[], facts={"name": "m"})
    releases.register(store.database, made)
    tenants.create(store.database, "acme", plan="any")
    return made


def correct(store, release, text, label, contributor, *, granted=True, tenant="acme"):
    """As the gateway records one, at the database's time."""

    def write(connection):
        request = {"id": str(ULID()), "tenant": tenant, "idempotency_key": str(ULID()), "body_sha256": "b" * 64}
        request |= {"state": "posted", "created_at": 1, "lease_until": 1, "holder": "x"}
        request |= {"held_inputs": 1, "held_tokens": 1}
        known = {c.name for c in tables.requests.columns}
        connection.execute(insert(tables.requests).values({k: v for k, v in request.items() if k in known}))
        since = consents.record(connection, tenant, contributor, "learn", granted=granted)
        row = {"id": str(ULID()), "tenant": tenant, "request": request["id"], "input": 0, "release": release.digest}
        row |= {"kind": "correction", "text": text, "answered": "no", "label": label, "contributor": contributor}
        connection.execute(insert(tables.feedback).values(row | {"at": max(now_us(connection), since)}))

    store.database.write(write)


def workspace(store, tmp_path, name):
    folder, scratch = tmp_path / name, tmp_path / f"{name}-scratch"
    folder.mkdir()
    scratch.mkdir()
    return Workspace(store, folder, scratch)


def freeze(store, release, tmp_path, name="frozen", until=FOREVER):
    settings = FeedbackSettings(name="m", until=until, test_share=0.3)
    return feedback((release,), settings, workspace(store, tmp_path, name))


def test_only_what_is_consented_goes_in_and_the_newest_judgement_of_a_text_holds(store, release, tmp_path):
    for number, person in enumerate(PEOPLE * 5):
        correct(store, release, f"sentence {number}", "yes", person)
    correct(store, release, "Sentence 0", "no", "ann")
    store.database.write(lambda c: consents.record(c, "acme", "bob", "learn", granted=False))
    frozen = freeze(store, release, tmp_path)
    rows = datasets.read(frozen)
    assert set(rows["contributor"]) == {"ann", "cem"} and rows.height == 10
    assert rows.filter(pl.col("text") == "Sentence 0")["label"].to_list() == ["no"]
    assert frozen.parents == (release.digest,) and set(rows["domain"]) == {"acme"}
    card = json.loads((frozen.path / "card.json").read_text())
    assert (card["received"], card["without_consent"], card["superseded"], card["kept"]) == (16, 5, 1, 10)


def test_a_frozen_dataset_is_the_same_whenever_it_is_frozen_up_to_its_watermark(store, release, tmp_path):
    for number in range(12):
        correct(store, release, f"sentence {number}", "yes" if number % 2 else "no", "ann")
    with store.database.read() as connection:
        until = max(connection.execute(select(tables.consents.c.at)).scalars())
        until = max(until, *connection.execute(select(tables.feedback.c.at)).scalars())
    first = freeze(store, release, tmp_path, "first", until)
    while store.database.write(now_us) <= until:
        pass  # SQLite's clock has milliseconds: the next correction must be after the watermark
    correct(store, release, "much later", "yes", "ann")
    assert freeze(store, release, tmp_path, "second", until).digest == first.digest


def test_consent_given_again_covers_only_what_comes_after_it(store, release, tmp_path):
    correct(store, release, "before the withdrawal", "yes", "ann")
    store.database.write(lambda c: consents.record(c, "acme", "ann", "learn", granted=False))
    correct(store, release, "after it", "no", "ann")
    assert datasets.read(freeze(store, release, tmp_path))["text"].to_list() == ["after it"]


def test_a_clock_that_steps_back_does_not_undo_a_withdrawal(store, release):
    ahead = {"id": str(ULID()), "tenant": "acme", "contributor": "ann", "purpose": "learn", "granted": True}

    def write(connection):
        connection.execute(insert(tables.consents).values(**ahead, at=now_us(connection) + 3600 * 10**6))
        consents.record(connection, "acme", "ann", "learn", granted=False)
        return consents.in_force(connection, "learn")

    assert store.database.write(write) == {}


def test_two_tenants_who_correct_the_same_words_do_not_replace_each_other(store, release, tmp_path):
    tenants.create(store.database, "evil", plan="any")
    correct(store, release, "the same words", "yes", "ann")
    correct(store, release, "The Same Words", "no", "eve", tenant="evil")
    rows = datasets.read(freeze(store, release, tmp_path))
    assert sorted(rows.select("domain", "label").rows()) == [("acme", "yes"), ("evil", "no")]


def test_without_any_consent_there_is_nothing_to_learn_from(store, release, tmp_path):
    correct(store, release, "a sentence", "yes", "ann", granted=False)
    with pytest.raises(DataError, match="no feedback to learn from"):
        freeze(store, release, tmp_path)


def dataset(store, tmp_path, name, rows):
    folder = tmp_path / name
    folder.mkdir()
    frame = pl.DataFrame(rows, schema=list(datasets.COLUMNS), orient="row")
    datasets.write(frame, folder)
    return store.add(Dataset, folder, parents=[], facts=datasets.describe(frame) | {"licence": "ours"})


def old_row(number, split="train"):
    return (f"old-{number}", f"old sentence {number}", "yes" if number % 2 else "no", split, f"o{number}", "films")


def new_row(number, split="train", text=None):
    words = text or f"new sentence {number}"
    return (f"feedback-{number}", words, "yes" if number % 3 else "no", split, f"n{number}", "acme")


def test_a_mix_holds_all_that_is_new_and_as_much_old_as_asked_for_and_nothing_held_out(store, tmp_path):
    old = dataset(store, tmp_path, "old", [old_row(n, "test" if n % 5 == 0 else "train") for n in range(100)])
    leak = new_row(90, text="old sentence 5")  # held out in the old domain: it must not be trained on
    new = dataset(store, tmp_path, "new", [new_row(n, "test" if n % 4 == 0 else "train") for n in range(20)] + [leak])
    mixed = datasets.read(mix(new, old, MixSettings(replay=2.0), workspace(store, tmp_path, "mixed")))
    train, test = mixed.filter(split="train"), mixed.filter(split="test")
    assert train.filter(domain="acme").height == 15 and train.filter(domain="films").height == 32
    assert test.height == 20 + 5 and not set(train["text"]) & set(test["text"])


def test_the_next_turn_neither_relearns_nor_replays_what_was_withdrawn(store, tmp_path):
    turn_one = pl.DataFrame([old_row(1), new_row(1), new_row(2)], schema=list(datasets.COLUMNS), orient="row")
    now = pl.DataFrame([new_row(2), new_row(3)], schema=list(datasets.COLUMNS), orient="row")
    assert set(still_allowed(turn_one, now)["id"]) == {"old-1", "feedback-2"}
    assert set(unlearned(now, turn_one)["id"]) == {"feedback-3"}


@given(st.text())
def test_white_space_and_case_do_not_move_a_sentence_to_the_other_side(text):
    assert position(key(f"  {text}\n")) == position(key(text)) == position(key(key(text)))
