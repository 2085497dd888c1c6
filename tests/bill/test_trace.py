"""A small wheel, twice round: films train the first release, its users' corrections and a replay train the second."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from sqlalchemy import insert
from ulid import ULID

from feilun import datasets
from feilun.bill import invoices
from feilun.bill.invoices import Invoice
from feilun.bill.settings import BillSettings
from feilun.bill.trace import trace_contributor, trace_line
from feilun.errors import AccessError, DataError
from feilun.pipeline.kinds import Dataset, Model, Release, Report, Source
from feilun.store import consents, releases, tables
from feilun.store.artifacts import Artifact, ArtifactStore
from tests.bill.books import Books, Use, at


@dataclass
class Wheel:
    """What was made, by name, and the invoice of the tenant that both releases answered."""

    made: dict[str, Artifact]
    tenant: str
    other: str
    invoice: Invoice

    def line(self, release: str, kind: str = "usage") -> str:
        digest = self.made[release].digest
        return next(line.id for line in self.invoice.lines if line.release == digest and line.kind == kind)


Row = tuple[str, str, str, str]  # id and text, split, contributor, domain


@pytest.fixture
def wheel(books: Books, store: ArtifactStore, settings: BillSettings, tmp_path: Path) -> Wheel:
    tenant, other = books.tenant(), books.tenant()
    made: dict[str, Artifact] = {}

    def add(name: str, kind: type[Artifact], parents: Sequence[str], rows: Sequence[Row] = (), **facts: Any) -> None:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "name").write_text(name)
        if rows:
            columns = zip(*rows, strict=True)
            ids, splits, people, domains = (list(column) for column in columns)
            frame = {"id": ids, "text": ids, "label": ["good"] * len(rows), "split": splits}
            datasets.write(pl.DataFrame(frame | {"contributor": people, "domain": domains}), folder)
        made[name] = store.add(kind, folder, parents=[made[p].digest for p in parents], facts=facts)

    films: list[Row] = [(f"f{i}", "train" if i < 3 else "test", f"films:{i % 2}", "films") for i in range(5)]
    corrected: list[Row] = [
        ("c1", "train", "ann", tenant),
        ("c2", "train", "bob", tenant),
        ("c3", "train", "ann", other),
        ("c4", "test", "cleo", tenant),
    ]
    add("source", Source, [], licence="MIT", title="film reviews")
    add("films", Dataset, ["source"], films, licence="MIT")
    add("base", Model, [], licence="Apache-2.0")
    add("tuned", Model, ["base", "films"])
    add("small", Model, ["tuned"])
    add("report", Report, ["small", "films"])
    add("first", Release, ["small", "report"])
    add("corrections", Dataset, ["first"], corrected, licence="consent")
    add("mixed", Dataset, ["corrections", "films"], [*corrected, films[0], *films[3:]], licence="consent; MIT")
    add("tuned again", Model, ["base", "mixed"])
    add("second", Release, ["tuned again"])
    for name in ("first", "second"):
        releases.register(store.database, made[name], "reviews")
    terms = settings.terms("starter")
    uses = [Use(at("2026-09-02"), made["first"].digest)] * 5 + [Use(at("2026-09-03"), made["second"].digest)] * 4
    asked = books.use(tenant, uses, terms)
    books.use(other, uses[-2:], terms)

    def events(connection: Any) -> None:
        for i, (text, _, person, whose) in enumerate(corrected):
            row = {"id": str(ULID()), "tenant": whose, "request": asked[i]["request"], "input": 0, "kind": "correction"}
            row |= {"release": made["first"].digest, "text": text, "answered": "bad", "label": "good", "at": i}
            connection.execute(insert(tables.feedback).values(row | {"contributor": person}))
            consents.record(connection, whose, person, "learn", granted=True)

    store.database.write(events)
    store.database.write(lambda c: consents.record(c, tenant, "bob", "learn", granted=False))
    return Wheel(made, tenant, other, invoices.close(store.database, tenant, "2026-09", settings))


def test_a_line_leads_back_to_examples_contributors_consent_and_sources(wheel: Wheel, store: ArtifactStore) -> None:
    found = trace_line(store.database, store, wheel.line("second"))
    made = wheel.made
    assert (found.tenant, found.invoice) == (wheel.tenant, wheel.invoice.number)
    assert found.usage.rows == found.line["units"] == 4
    assert found.usage.sample is not None and found.usage.sample["sequence"] == 6
    assert found.release is not None and found.release["name"] == "reviews"
    assert [m["digest"] for m in found.models] == [made["tuned again"].digest, made["base"].digest]
    assert [d.digest for d in found.datasets] == [made["mixed"].digest]
    assert (found.datasets[0].train, found.datasets[0].test) == (4, 3)
    assert found.examples == 4
    assert found.contributors == 4  # ann of one tenant, ann of the other, bob, and a film's
    assert (found.feedback.rows, found.feedback.contributors) == (3, 3)
    assert (found.feedback.consent_in_force, found.feedback.consent_withdrawn) == (2, 1)
    assert [(s["digest"], s["licence"]) for s in found.sources] == [(made["source"].digest, "MIT")]
    assert json.loads(json.dumps(found.as_dict()))["examples"] == 4


def test_a_line_of_the_first_release_knows_nothing_of_what_came_later(wheel: Wheel, store: ArtifactStore) -> None:
    found = trace_line(store.database, store, wheel.line("first"))
    assert [m["digest"] for m in found.models] == [wheel.made[n].digest for n in ("small", "tuned")] + [
        wheel.made["base"].digest
    ]
    assert (found.examples, found.contributors, found.feedback.rows) == (3, 2, 0)
    included = trace_line(store.database, store, wheel.line("first", "included"))
    assert included.usage == found.usage and included.usage.rows == 5  # the same requests, counted apart


def test_a_fee_has_no_release_behind_it(wheel: Wheel, store: ArtifactStore) -> None:
    found = trace_line(store.database, store, f"{wheel.invoice.number}/1")
    assert found.line["kind"] == "fee" and found.release is None and found.usage.rows == 0


def test_a_contributor_leads_forward_to_every_model_release_and_line(wheel: Wheel, store: ArtifactStore) -> None:
    made = wheel.made
    film = trace_contributor(store.database, store, "films:0")
    assert {d.digest: (d.train, d.test) for d in film.datasets} == {
        made["films"].digest: (2, 1),
        made["mixed"].digest: (1, 1),
    }
    assert {m["digest"] for m in film.models} == {made[n].digest for n in ("tuned", "small", "tuned again")}
    assert {r["digest"] for r in film.releases} == {made["first"].digest, made["second"].digest}
    assert sum(u["requests"] for u in film.usage) == 11
    own = {line.id for line in wheel.invoice.lines if line.kind != "fee"}
    assert {line["id"] for line in film.lines} == own
    assert film.consents == () and film.feedback == 0


def test_a_contributor_of_one_tenant_is_not_one_of_the_same_name_elsewhere(wheel: Wheel, store: ArtifactStore) -> None:
    both = trace_contributor(store.database, store, "ann")
    one = trace_contributor(store.database, store, "ann", tenant=wheel.tenant)
    assert (both.feedback, one.feedback) == (2, 1)
    assert [c["tenant"] for c in one.consents] == [wheel.tenant]
    assert {d.digest: d.train for d in one.datasets} == {
        wheel.made["corrections"].digest: 1,
        wheel.made["mixed"].digest: 1,
    }
    assert [r["digest"] for r in one.releases] == [wheel.made["second"].digest]


def test_held_out_words_trained_nothing_and_a_withdrawn_consent_is_shown(wheel: Wheel, store: ArtifactStore) -> None:
    cleo = trace_contributor(store.database, store, "cleo")
    assert [d.test for d in cleo.datasets] == [1, 1]
    assert cleo.models == cleo.releases == cleo.lines == ()
    assert [c["granted"] for c in trace_contributor(store.database, store, "bob").consents] == [False]


def test_who_or_what_is_not_there_is_said_with_a_hint(wheel: Wheel, store: ArtifactStore) -> None:
    with pytest.raises(DataError) as nobody:
        trace_contributor(store.database, store, "film:0")
    assert nobody.value.hint == "did you mean 'films:0'?"
    number = wheel.invoice.number
    with pytest.raises(AccessError) as line:
        trace_line(store.database, store, f"{number}/99")
    assert line.value.http_status == 404 and line.value.hint is not None and f"{number}/1" in line.value.hint
    with pytest.raises(AccessError, match="no invoice line"):
        trace_line(store.database, store, "nonsense")
