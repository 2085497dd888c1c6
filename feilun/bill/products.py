"""Building a data product: consented rows, without who wrote them, masked; or counts that cannot be subtracted.

What is claimed is what was done, with figures: rows left out by each filter, identifiers masked by patterns whose
recall was measured on a written corpus, texts flagged that hardly anybody else could have written. A text can still
tell who wrote it, so no product is called anonymous.
"""

from __future__ import annotations

import csv
import hashlib
import hmac
import io
import json
import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection, select

from feilun.bill import masking
from feilun.bill.products_settings import ProductSettings
from feilun.bill.rarity import rare
from feilun.bill.render import neutral
from feilun.bill.suppression import Group, Key, suppress
from feilun.errors import DataError, SettingError
from feilun.pipeline.kinds import Dataset, Product
from feilun.store import consents, products, releases, tables
from feilun.store.artifacts import ArtifactStore, canonical

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,47}")
PSEUDONYM = 16  # hexadecimal digits
STATEMENT = (
    "Pseudonymised and masked by patterns, not anonymous: a text can still tell who wrote it. "
    "Names and places are not masked; the recall is that of a small written corpus."
)


class Row(NamedTuple):
    """One row of the source. ``at`` is when it was given (microseconds), None where nobody knows."""

    text: str
    label: str
    split: str
    domain: str
    tenant: str
    contributor: str
    at: int | None


@dataclass(frozen=True)
class Built:
    """A product, what was done to make it, and whether it is another than was sold before."""

    artifact: Product
    card: dict[str, Any]
    is_new: bool


@dataclass
class _Made:
    """What is on its way into the product's files."""

    rows: list[dict[str, Any]]
    people: list[products.Person]
    columns: list[str]
    counts: dict[str, Any] = field(default_factory=dict)


def build(store: ArtifactStore, name: str, settings: ProductSettings, dataset: Dataset | None, secret: bytes) -> Built:
    """Build a product anew, and let its name stand for it.

    Args:
        store: where artefacts and events are.
        name: of the product.
        settings: what goes in.
        dataset: the source; None where that is the feedback.
        secret: key of the pseudonyms; with another key they are others.

    Raises:
        SettingError: the name cannot be one, or a column that the source does not have.
        DataError: too few people consent, or every group is too small.
    """
    if not NAME.fullmatch(name):
        raise SettingError(f"'{name[:80]}' cannot be a product's name", hint="use a-z, 0-9 and -, at most 48 of them")
    rows, parents = _read(store, settings, dataset)
    with store.database.read() as connection:
        held = consents.in_force(connection, products.PURPOSE)
    kept = [row for row in rows if _allowed(row, held)]
    people = sorted({(row.tenant, row.contributor) for row in kept})
    if len(people) < settings.least:
        raise DataError(
            f"{len(people)} people let their words be shared, a product needs {settings.least} or more",
            where=f"[bill.products.{name}]",
            hint="consent is recorded with: feilun feedback consent CONTRIBUTOR --tenant T --purpose share",
        )
    make = _aggregate if settings.kind == "aggregate" else _dataset
    made = make(kept, settings, hmac.new(secret, f"product\0{name}".encode(), hashlib.sha256).digest())
    inside = {(tenant, contributor) for tenant, contributor, _ in made.people}
    made.people = [(*person, held[person]) for person in people if person in inside]
    card = _card(name, settings, len(rows), len(kept), made)
    artifact = _write(store, settings, made, card, parents)
    return Built(artifact, card, _promote(store, name, artifact))


def _read(store: ArtifactStore, settings: ProductSettings, dataset: Dataset | None) -> tuple[list[Row], list[str]]:
    if dataset is None:
        with store.database.read() as connection:
            return _feedback(connection, settings.tenant)
    from feilun import datasets  # brings in polars, and most commands never read rows

    frame = datasets.read(store.verify(dataset))
    tenant = str(settings.tenant)
    columns = ("text", "label", "split", "domain", "contributor")
    found = [
        Row(text, label, split, domain, tenant, contributor, None)
        for text, label, split, domain, contributor in frame.select(columns).iter_rows()
    ]
    return found, [dataset.digest]


def _feedback(connection: Connection, tenant: str | None) -> tuple[list[Row], list[str]]:
    table = tables.feedback.c
    query = select(table.text, table.label, table.tenant, table.contributor, table.at, table.release).order_by(table.id)
    found = connection.execute(query.where(table.tenant == tenant) if tenant else query).all()
    rows = [Row(r.text, r.label, "train", r.tenant, r.tenant, r.contributor, r.at) for r in found]
    return rows, sorted({r.release for r in found})


def _allowed(row: Row, held: dict[tuple[str, str], int]) -> bool:
    """By consent now; of words whose time is known, one that was given before them and never withdrawn since."""
    since = held.get((row.tenant, row.contributor))
    return since is not None and (row.at is None or since <= row.at)


def _dataset(rows: Sequence[Row], settings: ProductSettings, key: bytes) -> _Made:
    flags = rare([(f"{row.tenant}\0{row.contributor}", row.text) for row in rows])
    chosen = [pair for pair in zip(rows, flags, strict=True) if not (pair[1] and settings.rare_texts == "drop")]
    masked: Counter[str] = Counter()
    made = _Made([], [(row.tenant, row.contributor, 0) for row, _ in chosen], list(settings.columns))
    for row, flag in chosen:
        line: dict[str, Any] = {column: getattr(row, column) for column in settings.columns}
        if "text" in line:
            line["text"], found = masking.mask(row.text)
            masked += found
        if settings.contributors == "pseudonym":
            whole = f"{row.tenant}\0{row.contributor}".encode()
            line["contributor"] = hmac.new(key, whole, hashlib.sha256).hexdigest()[:PSEUDONYM]
        if "text" in line and settings.rare_texts == "flag":
            line["rare"] = flag
        made.rows.append(line)
    made.rows.sort(key=canonical)  # their order told when they were given, and by whom one after the other
    made.columns = list(made.rows[0]) if made.rows else made.columns
    made.counts = {"rare_texts": sum(flags), "masked": dict(sorted(masked.items()))}
    made.counts["recall"] = masking.described(masking.recall())
    return made


def _aggregate(rows: Sequence[Row], settings: ProductSettings, key: bytes) -> _Made:
    members: dict[Key, list[Row]] = {}
    for row in rows:
        members.setdefault(tuple(getattr(row, column) for column in settings.group_by), []).append(row)
    groups = {
        value: Group(len(inside), frozenset(f"{row.tenant}\0{row.contributor}" for row in inside))
        for value, inside in members.items()
    }
    hidden = suppress(groups, settings.least)
    made = _Made([], [], [*settings.group_by, *settings.measures])
    for value in sorted(groups.keys() - hidden.all):
        inside = members[value]
        made.people += [(row.tenant, row.contributor, 0) for row in inside]
        measures = {
            "rows": len(inside),
            "contributors": len(groups[value].people),
            "characters": round(sum(len(row.text) for row in inside) / len(inside)),
        }
        line: dict[str, Any] = dict(zip(settings.group_by, value, strict=True))
        made.rows.append(line | {name: measures[name] for name in settings.measures})
    made.counts = {
        "groups": len(groups),
        "suppressed": len(hidden.primary),
        "suppressed_to_protect_them": len(hidden.complementary),
    }
    return made


def _card(name: str, settings: ProductSettings, read: int, kept: int, made: _Made) -> dict[str, Any]:
    if not made.rows:
        raise DataError(
            "nothing is left to be sold: every group is too small, or every text too rare",
            where=f"[bill.products.{name}]",
            hint="group by fewer columns, or wait for more people",
        )
    counts = {
        "read": read,
        "without_consent": read - kept,
        "consented": kept,
        **made.counts,
        "published": len(made.rows),
    }
    people = {"contributors": len(made.people), "least": settings.least}
    return {
        "name": name,
        "settings": settings.model_dump(mode="json"),
        "counts": counts,
        **people,
        "statement": STATEMENT,
    }


def _write(
    store: ArtifactStore, settings: ProductSettings, made: _Made, card: dict[str, Any], parents: list[str]
) -> Product:
    facts = {
        "name": products.release_name(card["name"]),
        "kind": settings.kind,
        "licence": settings.licence,
        "columns": made.columns,
        "rows": len(made.rows),
        "least": settings.least,
    }
    with tempfile.TemporaryDirectory(dir=store.folder / "partial") as scratch:
        folder = Path(scratch) / "product"
        folder.mkdir()
        (folder / "rows.jsonl").write_bytes(b"".join(canonical(row) + b"\n" for row in made.rows))
        (folder / "rows.csv").write_text(_csv(made), "utf-8", newline="")
        (folder / products.PEOPLE).write_bytes(canonical(made.people))
        (folder / "card.json").write_text(json.dumps(card, ensure_ascii=False, indent=2) + "\n", "utf-8")
        return store.add(Product, folder, parents=parents, facts=facts)


def _csv(made: _Made) -> str:
    """RFC 4180, every cell neutralised (RELIABILITY 53)."""
    file = io.StringIO()
    writer = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    writer.writerow(made.columns)
    writer.writerows([neutral(str(row[column])) for column in made.columns] for row in made.rows)
    return file.getvalue()


def _promote(store: ArtifactStore, name: str, artifact: Product) -> bool:
    """Let the name stand for this artefact; False where it does already."""
    release = products.release_name(name)
    releases.register(store.database, artifact, release)
    now = releases.find_pointer(store.database, release)
    if now is not None and now.release == artifact.digest:
        return False
    version = now.version if now is not None else 0
    releases.promote(store.database, release, artifact.digest, expected_version=version, reason="built")
    return True
