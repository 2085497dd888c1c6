"""Does the ledger say what the customers saw? Read from the database, compared with the customers' own logs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select

from feilun.demo.traffic import Answer, Customer
from feilun.pipeline.kinds import Model, Release
from feilun.store import tables
from feilun.store.artifacts import ArtifactStore

TOLERANCE = 1e-4  # scores are float32 and independent of the batch; JSON keeps their digits


@dataclass(frozen=True)
class Audit:
    """Counts of requests. All but the first three should be 0."""

    sent: int
    answered: int
    billed: int
    replayed: int  # sent again by a customer with the same key: answered, not billed again
    missing: int  # answered, but not in the ledger with that amount
    duplicated: int  # in the ledger more often than answered
    dropped_in_swap: int  # given up by a customer
    wrong_release: int  # answered otherwise than the release that the answer names
    checked_against_release: int


def audit(store: ArtifactStore, customers: Sequence[Customer], checked: Sequence[Answer]) -> Audit:
    """Compare every logged answer with its usage row, and the answers ``checked`` with the models that they name."""
    answers = [answer for customer in customers for answer in customer.answers]
    first = [answer for answer in answers if not answer.replayed]
    with store.database.read() as connection:
        usage = tables.usage.c
        rows = connection.execute(select(usage.request, usage.amount_nano, usage.release)).all()
    ledger = {row.request: (row.amount_nano, row.release) for row in rows}
    seen = {answer.id for answer in answers}
    times = Counter(row.request for row in rows)
    return Audit(
        sent=sum(customer.sent for customer in customers),
        answered=len({answer.id for answer in first}),
        billed=len(rows),
        replayed=len(answers) - len(first),
        missing=sum(ledger.get(a.id) != (a.amount_nano, a.release) for a in answers),
        duplicated=sum(n - 1 for n in times.values()) + len(set(ledger) - seen),
        dropped_in_swap=sum(customer.failed for customer in customers),
        wrong_release=wrong_releases(store, checked),
        checked_against_release=len(checked),
    )


def wrong_releases(store: ArtifactStore, answers: Sequence[Answer]) -> int:
    """How many answers are not what the release that they name gives for the same sentence."""
    from feilun.models import openvino

    wrong = 0
    for digest in sorted({answer.release for answer in answers}):
        release = store.get(digest)
        model = next(m for m in map(store.get, release.parents) if isinstance(m, Model))
        assert isinstance(release, Release)
        engine = openvino.load(model.path)
        theirs = [answer for answer in answers if answer.release == digest]
        texts = [sentence.text for answer in theirs for sentence in answer.sentences]
        scores = engine.run(engine.encode(texts))
        row = 0
        for answer in theirs:
            for label, score in zip(answer.labels, answer.scores, strict=True):
                best = int(scores[row].argmax())
                wrong += engine.labels[best] != label or abs(float(scores[row][best]) - score) > TOLERANCE
                row += 1
    return wrong
