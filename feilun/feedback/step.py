"""Freeze feedback up to a watermark: events become a dataset, which is where the wheel closes."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from sqlalchemy import Connection, select

from feilun.datasets.positions import key, position
from feilun.datasets.rows import FEEDBACK as PREFIX
from feilun.errors import DataError
from feilun.feedback.settings import FeedbackSettings
from feilun.pipeline.kinds import Dataset, Release
from feilun.pipeline.steps import Workspace, step
from feilun.store import tables
from feilun.store.consents import allows, in_force


@step("feedback", version=1, declared=False)
def feedback(releases: tuple[Release, ...], settings: FeedbackSettings, work: Workspace) -> Dataset:
    """Corrections of the answers of ``releases``, from contributors who let us learn from them.

    The domain of an example is the tenant it came from, so that every later figure can be read customer by customer.

    Args:
        releases: those that answered; they are the parents, so lineage leads from an example to the answer it corrects.

    Returns:
        A dataset split by a stable hash of the text: the same sentence is always on the same side.

    Raises:
        DataError: no consented correction up to the watermark.
    """
    import polars as pl

    from feilun import datasets

    with work.store.database.read() as connection:
        rows = _corrections(connection, releases, settings)
        allowed = in_force(connection, "learn", until=settings.until)
    kept = [row for row in rows if allows(allowed, row["tenant"], row["contributor"], row["at"])]
    if not kept:
        raise DataError(
            "there is no feedback to learn from",
            where=f"{len(rows)} corrections, none with consent to learn" if rows else settings.name,
            hint="send corrections to POST /v1/feedback with consent ['learn']",
        )
    keys = [key(row["text"]) for row in kept]
    frame = pl.DataFrame(
        {
            "id": [example_id(row["tenant"], same) for row, same in zip(kept, keys, strict=True)],
            "key": keys,
            "text": [row["text"] for row in kept],
            "label": [row["label"] for row in kept],
            "split": ["test" if position(same) < settings.test_share else "train" for same in keys],
            "contributor": [row["contributor"] for row in kept],
            "domain": [row["tenant"] for row in kept],
        }
    )
    unique = frame.unique("id", keep="last", maintain_order=True).drop("key")  # a tenant's newest judgement holds
    card = {
        "received": len(rows),
        "without_consent": len(rows) - len(kept),
        "superseded": frame.height - unique.height,
        "kept": unique.height,
        "corrected": sum(row["label"] != row["answered"] for row in kept),
    }
    work.record("freezing feedback", unique.height, unique.height)
    datasets.write(unique, work.folder)
    (work.folder / "card.json").write_text(json.dumps(card, indent=2) + "\n", "utf-8")
    return work.finish(Dataset, releases, **datasets.describe(unique), licence="contributors' consent to learn")


def example_id(tenant: str, same: str) -> str:
    """The id of a tenant's text in every dataset frozen from feedback, whenever that was."""
    return PREFIX + hashlib.sha256(f"feedback\0{tenant}\0{same}".encode()).hexdigest()[:32]


def _corrections(
    connection: Connection, releases: tuple[Release, ...], settings: FeedbackSettings
) -> list[dict[str, Any]]:
    table = tables.feedback.c
    query = (
        select(table.tenant, table.text, table.label, table.answered, table.contributor, table.at)
        .where(table.release.in_([r.digest for r in releases]), table.at <= settings.until)
        .order_by(table.at, table.id)
    )
    return [dict(row) for row in connection.execute(query).mappings()]
