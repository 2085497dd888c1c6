"""How a turn ends: consent, decision and pointer in one transaction, or nothing promoted and the reason kept."""

from __future__ import annotations

import json

import polars as pl
import pytest
from sqlalchemy import select

from feilun import datasets, turn
from feilun.accounts import tenants
from feilun.errors import ConflictError
from feilun.pipeline.kinds import Dataset, Model, Release, Report
from feilun.relearn.decision import Cohort, Stakes, decide
from feilun.store import consents, releases, tables
from feilun.store.artifacts import ArtifactStore

STAKES = Stakes(30, 2_000_000, 5, 0.01, 1, "USD")


@pytest.fixture
def store(database, tmp_path):
    tenants.create(database, "acme", plan="any")
    database.write(lambda c: consents.record(c, "acme", "ann", "learn", granted=True))
    return ArtifactStore(tmp_path / "artifacts", database)


def artifact(store, tmp_path, kind, called, **facts):
    folder = tmp_path / called
    folder.mkdir()
    (folder / "content").write_text(called)
    return store.add(kind, folder, parents=[], facts=facts)


@pytest.fixture
def learned(store, tmp_path):
    champion = artifact(store, tmp_path, Release, "champion", name="m")
    candidate = artifact(store, tmp_path, Release, "candidate", name="m")
    releases.register(store.database, champion)
    releases.promote(store.database, "m", champion.digest, expected_version=0, reason="first")
    model = artifact(store, tmp_path, Model, "model")
    report = artifact(store, tmp_path, Report, "report", passed=True)
    folder = tmp_path / "fresh"
    folder.mkdir()
    row = [("feedback-1", "words", "yes", "train", "ann", "acme")]
    datasets.write(pl.DataFrame(row, schema=list(datasets.COLUMNS), orient="row"), folder)
    fresh = store.add(Dataset, folder, parents=[], facts={})
    return turn._Learned(champion, model, model, candidate, fresh, fresh, report, report)


def ending(learned):
    decision = decide([Cohort("acme", 1000.0, 1.0, (False,), (True,))], [], STAKES, gates={})
    return turn.Turn("01TURN", "m", learned.champion.digest, learned.release.digest, decision, True, 1, ())


def stored_turns(store):
    with store.database.read() as connection:
        rows = connection.execute(select(tables.turns)).mappings().all()
    return [(row["verdict"], row["candidate"], json.loads(row["decision"])["reasons"][0]) for row in rows]


def test_a_good_turn_moves_the_pointer_and_keeps_its_decision(store, learned):
    turn._conclude(store, ending(learned), learned, releases.pointer(store.database, "m"))
    assert releases.pointer(store.database, "m").release == learned.release.digest
    assert [(verdict, candidate) for verdict, candidate, _ in stored_turns(store)] == [
        ("promote", learned.release.digest)
    ]


def test_a_withdrawal_while_the_candidate_learned_promotes_nothing_and_says_so(store, learned):
    seen = releases.pointer(store.database, "m")
    store.database.write(lambda c: consents.record(c, "acme", "ann", "learn", granted=False))
    with pytest.raises(ConflictError, match="withdrew consent"):
        turn._conclude(store, ending(learned), learned, seen)
    assert releases.pointer(store.database, "m") == seen
    assert releases.registered(store.database, "m") == [learned.champion.digest]
    ((verdict, candidate, reason),) = stored_turns(store)
    assert (verdict, candidate) == ("keep", None) and "withdrew consent" in reason


def test_a_pointer_that_somebody_else_moved_is_not_moved_again(store, learned, tmp_path):
    seen = releases.pointer(store.database, "m")
    other = artifact(store, tmp_path, Release, "other", name="m")
    releases.register(store.database, other)
    releases.promote(store.database, "m", other.digest, expected_version=seen.version, reason="by hand")
    with pytest.raises(ConflictError, match="changed by somebody else"):
        turn._conclude(store, ending(learned), learned, seen)
    assert releases.pointer(store.database, "m").release == other.digest
    assert [verdict for verdict, _, _ in stored_turns(store)] == ["keep"]
