"""From an invoice line back to the people behind the answers, and from a person forward to every line.

Only what a model was really trained on counts: from a release to its models, from model to model, and to the datasets
that are a model's own parents. A mixed dataset holds its old rows itself, so nothing is missed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

from sqlalchemy import Connection, func, select

from feilun.errors import AccessError, DataError, did_you_mean
from feilun.pipeline.kinds import Dataset, Product
from feilun.store import products, tables
from feilun.store.artifacts import ArtifactStore
from feilun.store.consents import in_force
from feilun.store.database import Database

SHOWN = 20  # lines named in a hint: enough for people


@dataclass(frozen=True)
class DatasetPart:
    """One dataset behind a model: how many rows of each split, and whose."""

    digest: str
    train: int
    test: int
    contributors: int  # of the training rows
    domains: tuple[str, ...]
    licence: str | None


@dataclass(frozen=True)
class UsageSpan:
    """The usage rows of one line: how many, from when to when (microseconds, UTC), and the first as a sample."""

    rows: int
    first_at: int | None
    last_at: int | None
    sample: dict[str, Any] | None


@dataclass(frozen=True)
class FeedbackPart:
    """Corrections by users among the training rows, and how many of their contributors allow learning today."""

    rows: int
    contributors: int
    consent_in_force: int
    consent_withdrawn: int


_NOTHING = (None, (), (), 0, 0, FeedbackPart(0, 0, 0, 0), ())  # of a line's trace, from ``release`` to ``sources``


@dataclass(frozen=True)
class ProductPart:
    """A data product that was sold: how many people's rows it holds, and how many let them be shared today."""

    name: str
    rows: int
    contributors: int
    consent_in_force: int
    consent_withdrawn: int


@dataclass(frozen=True)
class LineTrace:
    """What stands behind one invoice line. A monthly fee has no usage and no release.

    Of a product sold, ``examples`` and ``contributors`` are those that it holds, whatever else its sources held.
    """

    line: dict[str, Any]
    invoice: str
    tenant: str
    usage: UsageSpan
    release: dict[str, Any] | None
    models: tuple[dict[str, Any], ...]
    datasets: tuple[DatasetPart, ...]
    examples: int  # distinct training rows
    contributors: int  # distinct, of those rows
    feedback: FeedbackPart
    sources: tuple[dict[str, Any], ...]
    product: ProductPart | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        return asdict(self)


@dataclass(frozen=True)
class ContributorTrace:
    """Where one person's words went. ``releases`` were trained on them, or are products that hold them."""

    contributor: str
    consents: tuple[dict[str, Any], ...]  # newest state of each tenant and purpose
    feedback: int
    datasets: tuple[DatasetPart, ...]
    models: tuple[dict[str, Any], ...]
    releases: tuple[dict[str, Any], ...]
    usage: tuple[dict[str, Any], ...]  # requests and amounts by release, tenant and currency
    lines: tuple[dict[str, Any], ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        return asdict(self)


def trace_line(database: Database, store: ArtifactStore, line_id: str) -> LineTrace:
    """Follow one invoice line back: usage, release, models, datasets, examples, contributors, consent, sources.

    Args:
        line_id: ``"INV-000001/2"``, as the invoice shows it.

    Raises:
        AccessError: there is no such line.
        ArtifactError: a dataset behind it is not in the store, or was changed.
    """
    with database.read() as connection:
        tenant, invoice, line = _find_line(connection, line_id)
        release = line["release"]
        if release is None:
            return LineTrace(line, invoice, tenant, UsageSpan(0, None, None, None), *_NOTHING)
        usage = _usage_span(connection, tenant, line)
        if any(made["kind"] == Product.kind for made in _described(connection, [release])):
            sold = cast("Product", store.get(release))
            return _sold_line(connection, store, LineTrace(line, invoice, tenant, usage, *_NOTHING), sold)
        models = _walk(connection, [release], kinds=("model",), source="child", target="parent")
        parts, rows = _datasets(store, _walk(connection, models, kinds=("dataset",), depth=1))
        sources = _walk(connection, [p.digest for p in parts], kinds=("dataset", "source"))
        return LineTrace(
            line=line,
            invoice=invoice,
            tenant=tenant,
            usage=usage,
            release=_named_release(connection, release),
            models=_described(connection, models),
            datasets=parts,
            examples=len(rows),
            contributors=_people(rows.values()),
            feedback=_feedback_part(connection, rows),
            sources=tuple(s for s in _described(connection, sources) if s["kind"] == "source"),
        )


def trace_contributor(
    database: Database, store: ArtifactStore, contributor: str, *, tenant: str | None = None
) -> ContributorTrace:
    """Follow one contributor forward: datasets, models, releases, usage, invoice lines, and the state of consent.

    Args:
        contributor: as the datasets' column ``contributor`` or the feedback names them.
        tenant: only that tenant's contributor of this name; by default every tenant's and every domain's.

    Raises:
        DataError: nobody of that name is in any dataset, feedback or consent.
        ArtifactError: a dataset is not in the store, or was changed.
    """
    with database.read() as connection:
        every = connection.execute(
            select(tables.artifacts.c.digest)
            .where(tables.artifacts.c.kind == "dataset")
            .order_by(tables.artifacts.c.created_at, tables.artifacts.c.digest)
        ).scalars()
        parts, known = _datasets_of(store, list(every), contributor, tenant)
        consents = _consents(connection, contributor, tenant)
        feedback = _corrections(connection, contributor, tenant)
        if not (parts or consents or feedback):
            known |= set(connection.execute(select(tables.feedback.c.contributor).distinct()).scalars())
            raise DataError(
                f"there is no contributor '{contributor}'",
                where="datasets, feedback and consents",
                hint=did_you_mean(contributor, known) or "contributors are named by the 'contributor' column",
            )
        trained = [p.digest for p in parts if p.train]
        models = _walk(connection, trained, kinds=("model",), source="parent", target="child")
        releases = _walk(connection, models, kinds=("release",), source="parent", target="child", depth=1)
        releases += _products_of(connection, store, contributor, tenant)
        return ContributorTrace(
            contributor=contributor,
            consents=consents,
            feedback=feedback,
            datasets=parts,
            models=_described(connection, models),
            releases=tuple(_named_release(connection, r) for r in releases),
            usage=_usage_of(connection, releases),
            lines=_lines_of(connection, set(releases)),
        )


def _sold_line(connection: Connection, store: ArtifactStore, traced: LineTrace, product: Product) -> LineTrace:
    """What stands behind a sale: the product's own people and rows, and what its rows were taken from."""
    people = products.people_of(product)
    gone = products.stale(connection, people)
    name = str(product.facts["name"]).removeprefix(products.PREFIX)
    parts, _ = _datasets(store, _walk(connection, [product.digest], kinds=("dataset",), depth=1))
    sources = _walk(connection, [part.digest for part in parts], kinds=("dataset", "source"))
    return replace(
        traced,
        release=_named_release(connection, product.digest),
        datasets=parts,
        examples=int(product.facts["rows"]),
        contributors=len(people),
        sources=tuple(s for s in _described(connection, sources) if s["kind"] == "source"),
        product=ProductPart(name, int(product.facts["rows"]), len(people), len(people) - gone, gone),
    )


def _products_of(connection: Connection, store: ArtifactStore, contributor: str, tenant: str | None) -> list[str]:
    """The products that hold a person's words, or counted them."""
    artifacts = tables.artifacts.c
    query = (
        select(artifacts.digest).where(artifacts.kind == Product.kind).order_by(artifacts.created_at, artifacts.digest)
    )
    return [
        digest
        for digest in connection.execute(query).scalars()
        if any(
            whose == contributor and tenant in (None, where)
            for where, whose, _ in products.people_of(store.get(digest))
        )
    ]


def _find_line(connection: Connection, line_id: str) -> tuple[str, str, dict[str, Any]]:
    number = line_id.rpartition("/")[0]
    invoices = tables.invoices.c
    row = connection.execute(
        select(invoices.tenant, invoices.body).where(invoices.number == (number or line_id))
    ).one_or_none()
    if row is None:
        numbers = connection.execute(select(invoices.number).order_by(invoices.number)).scalars()
        hint = did_you_mean(number or line_id, numbers) or "list the invoices with: feilun bill"
        raise AccessError(f"there is no invoice line '{line_id}'", status=404, hint=hint, code="not-found")
    lines = {line["id"]: line for line in json.loads(row.body)["lines"]}
    if line_id not in lines:
        hint = f"its lines are {', '.join(list(lines)[:SHOWN])}"
        raise AccessError(f"there is no invoice line '{line_id}'", status=404, hint=hint, code="not-found")
    return row.tenant, number, lines[line_id]


def _usage_span(connection: Connection, tenant: str, line: dict[str, Any]) -> UsageSpan:
    usage = tables.usage.c
    covered = (
        (usage.tenant == tenant)
        & usage.sequence.between(line["first_sequence"], line["last_sequence"])
        & (usage.release == line["release"])
        & (usage.price_version == line["price_version"])
    )
    rows, first, last = connection.execute(
        select(func.count(), func.min(usage.at), func.max(usage.at)).where(covered)
    ).one()
    sample = (
        connection.execute(select(tables.usage).where(covered).order_by(usage.sequence).limit(1)).mappings().first()
    )
    return UsageSpan(rows, first, last, dict(sample) if sample else None)


def _walk(
    connection: Connection,
    start: Iterable[str],
    *,
    kinds: Sequence[str],
    source: str = "child",
    target: str = "parent",
    depth: int | None = None,
) -> list[str]:
    """Artefacts of ``kinds`` that are reached from ``start`` through nothing but such artefacts, nearest first."""
    parents, artifacts = tables.parents.c, tables.artifacts.c
    found: dict[str, None] = {}
    frontier = list(start)
    while frontier and depth != 0:
        step = (
            select(parents[target])
            .join(tables.artifacts, artifacts.digest == parents[target])
            .where(parents[source].in_(frontier), artifacts.kind.in_(kinds))
            .order_by(parents[target])
            .distinct()
        )
        frontier = [digest for digest in connection.execute(step).scalars() if digest not in found]
        found.update(dict.fromkeys(frontier))
        depth = None if depth is None else depth - 1
    return list(found)


def _datasets(
    store: ArtifactStore, digests: Iterable[str]
) -> tuple[tuple[DatasetPart, ...], dict[str, dict[str, Any]]]:
    """Each dataset's counts, and the distinct training rows of all by their id."""
    parts = []
    rows: dict[str, dict[str, Any]] = {}
    for digest in digests:
        examples = _examples(store, digest)
        parts.append(_part(store, digest, examples))
        rows |= {row["id"]: row for row in examples if row["split"] == "train"}
    return tuple(parts), rows


def _datasets_of(
    store: ArtifactStore, digests: Iterable[str], contributor: str, tenant: str | None
) -> tuple[tuple[DatasetPart, ...], set[str]]:
    """The datasets with rows of ``contributor``, counting only those, and the names of everybody who was seen."""
    parts = []
    seen: set[str] = set()
    for digest in digests:
        examples = _examples(store, digest)
        seen |= {row["contributor"] for row in examples}
        own = [row for row in examples if row["contributor"] == contributor and tenant in (None, row["domain"])]
        if own:
            parts.append(_part(store, digest, own))
    return tuple(parts), seen


def _examples(store: ArtifactStore, digest: str) -> list[dict[str, Any]]:
    from feilun import datasets  # brings in polars, and most commands never read rows

    return datasets.read(cast("Dataset", store.get(digest))).to_dicts()


def _part(store: ArtifactStore, digest: str, rows: Sequence[dict[str, Any]]) -> DatasetPart:
    train = [row for row in rows if row["split"] == "train"]
    licence = store.get(digest).facts.get("licence")
    return DatasetPart(
        digest=digest,
        train=len(train),
        test=sum(row["split"] == "test" for row in rows),
        contributors=_people(train),
        domains=tuple(sorted({row["domain"] for row in rows})),
        licence=cast("str | None", licence),
    )


def _people(rows: Iterable[dict[str, Any]]) -> int:
    """How many contributors; the same name in two domains is two people."""
    return len({(row["domain"], row["contributor"]) for row in rows})


def _feedback_part(connection: Connection, rows: Mapping[str, dict[str, Any]]) -> FeedbackPart:
    """Frozen corrections keep their text and contributor, and have the tenant as their domain."""
    feedback = tables.feedback.c
    found = connection.execute(select(feedback.tenant, feedback.contributor, feedback.text)).all()
    known = {(row["domain"], row["contributor"], row["text"]) for row in rows.values()}
    behind = [row for row in found if (row.tenant, row.contributor, row.text) in known]
    people = {(row.tenant, row.contributor) for row in behind}
    allowed = people & in_force(connection, "learn").keys()
    return FeedbackPart(len(behind), len(people), len(allowed), len(people) - len(allowed))


def _described(connection: Connection, digests: Sequence[str]) -> tuple[dict[str, Any], ...]:
    artifacts = tables.artifacts.c
    rows = connection.execute(
        select(artifacts.digest, artifacts.kind, artifacts.facts).where(artifacts.digest.in_(digests))
    )
    found = {row.digest: {"digest": row.digest, "kind": row.kind, "facts": json.loads(row.facts)} for row in rows}
    return tuple(found[d] | {"licence": found[d]["facts"].get("licence")} for d in digests)


def _named_release(connection: Connection, digest: str) -> dict[str, Any]:
    releases = tables.releases.c
    row = connection.execute(
        select(releases.name, releases.registered_at).where(releases.digest == digest)
    ).one_or_none()
    return {"digest": digest, "name": row.name if row else None, "registered_at": row.registered_at if row else None}


def _usage_of(connection: Connection, releases: Sequence[str]) -> tuple[dict[str, Any], ...]:
    usage = tables.usage.c
    query = (
        select(usage.release, usage.tenant, usage.currency, func.count(), func.sum(usage.amount_nano))
        .where(usage.release.in_(releases))
        .group_by(usage.release, usage.tenant, usage.currency)
        .order_by(usage.release, usage.tenant, usage.currency)
    )
    return tuple(
        {"release": r, "tenant": t, "currency": c, "requests": n, "amount_nano": int(amount)}
        for r, t, c, n, amount in connection.execute(query)
    )


def _lines_of(connection: Connection, releases: set[str]) -> tuple[dict[str, Any], ...]:
    invoices = tables.invoices.c
    query = select(invoices.tenant, invoices.currency, invoices.body).order_by(invoices.number)
    kept = ("id", "release", "description", "units", "amount_nano")
    return tuple(
        {"tenant": tenant, "currency": currency, **{name: line[name] for name in kept}}
        for tenant, currency, body in connection.execute(query)
        for line in json.loads(body)["lines"]
        if line["release"] in releases
    )


def _corrections(connection: Connection, contributor: str, tenant: str | None) -> int:
    feedback = tables.feedback.c
    query = select(func.count()).where(feedback.contributor == contributor)
    if tenant is not None:
        query = query.where(feedback.tenant == tenant)
    return connection.execute(query).scalar_one()


def _consents(connection: Connection, contributor: str, tenant: str | None) -> tuple[dict[str, Any], ...]:
    consents = tables.consents.c
    query = select(tables.consents).where(consents.contributor == contributor).order_by(consents.id)
    if tenant is not None:
        query = query.where(consents.tenant == tenant)
    newest: dict[tuple[str, str], dict[str, Any]] = {}
    for row in connection.execute(query).mappings():
        newest[row["tenant"], row["purpose"]] = {k: row[k] for k in ("tenant", "purpose", "granted", "at")}
    return tuple(newest[key] for key in sorted(newest))
