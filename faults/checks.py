"""I1 to I6 of RELIABILITY, after a fault, as sentences about what does not hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select

from faults.house import House
from faults.load import Clients, broken_invariants
from feilun.bill.verify import verify
from feilun.models import openvino
from feilun.pipeline.kinds import Model
from feilun.serve.release import scores_of
from feilun.store import tables

EXPECTED = {409, 503}  # what a client may be refused with while gateways and databases come and go


def everything(house: House, *crowds: Clients, all_delivered: bool = True) -> list[str]:
    """All invariants at once."""
    answers = [answer for clients in crowds for answer in clients.answers]
    found = broken_invariants(house.database, answers, all_delivered=all_delivered)
    found += [f"I5: {problem}" for problem in verify(house.database).problems]
    found += [f"I6: {words}" for words in strangers(house, answers)]
    refused = sorted({status for clients in crowds for status in clients.refused} - EXPECTED)
    return found + [f"clients were refused with {status}" for status in refused]


def strangers(house: House, answers: Sequence[dict[str, Any]]) -> list[str]:
    """Answers that are not the model's to the texts that were sent, or that belong to another tenant's request."""
    owners = {token: name for name, token in house.tokens.items()}
    requests = tables.requests.c
    with house.database.read() as connection:
        rows = connection.execute(select(requests.id, requests.tenant, requests.answer)).all()
    stored = {row.id: (row.tenant, row.answer) for row in rows}
    found = []
    for answer in answers:
        tenant, _ = stored.get(answer["id"], (None, None))
        if tenant is not None and tenant != owners[answer["token"]]:
            found.append(f"{owners[answer['token']]} got the answer {answer['id']} of {tenant}")
    return found + [f"{i} is not the answer to its texts" for i in wrong_answers(house, answers)]


def wrong_answers(house: House, answers: Sequence[dict[str, Any]]) -> list[str]:
    """Answers that are not what the model of the release that they name gives to the same texts."""
    wrong = []
    for digest in {str(answer["release"]) for answer in answers}:
        models = map(house.store.get, house.store.get(digest).parents)
        engine = openvino.load(next(m for m in models if isinstance(m, Model)).path, threads=1)
        mine = [answer for answer in answers if answer["release"] == digest]
        texts = sorted({text for answer in mine for text in answer["texts"]})
        rows = engine.run(engine.encode(texts))
        expected = {t: scores_of(engine.labels, list(row)) for t, row in zip(texts, rows, strict=True)}
        wrong += [
            str(answer["id"])
            for answer in mine
            if [r["scores"] for r in answer["results"]] != [expected[text] for text in answer["texts"]]
        ]
    return wrong
