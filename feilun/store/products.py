"""Data products: which there are, whether they may still be sold, and selling one, all or nothing.

A product is an artefact that is registered as a release named ``product/NAME``, so that a sale is a usage row like any
other: held and captured, in budget and quota, on an invoice, and traced from there. Whether every contributor still
consents is asked in the transaction of the sale itself, after consents were held still: a product with one person who
withdrew is not sold any more, neither anew nor as a replay, until it is built again without them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import Connection, select
from ulid import ULID

from feilun.errors import AccessError, ArtifactError, ConflictError, SettingError, UnavailableError, did_you_mean
from feilun.store import consents, ledger, tables
from feilun.store.artifacts import Artifact, ArtifactStore, canonical
from feilun.store.counts import Counts
from feilun.store.database import now_us

PREFIX = "product/"  # of the names of their releases; no model's name has a slash
PURPOSE = "share"
FORMATS = {"jsonl": "application/x-ndjson", "csv": "text/csv; charset=utf-8"}
PEOPLE = "people.json"
ROUTE = "/v1/products/"
LEASE_S = 30.0  # of a hold that is captured in the same transaction
Person = tuple[str, str, int]  # tenant, contributor, since when they consent
ATTEMPTS = 5  # how often a sale begins anew because the product was built again meanwhile


@dataclass(frozen=True)
class Buyer:
    """Who buys, by which key, and what makes the same purchase the same when it is sent again."""

    tenant: str
    key: str
    idempotency_key: str


@dataclass(frozen=True)
class Sold:
    """A product's bytes, and the receipt that is kept for them."""

    content: bytes
    receipt: Mapping[str, Any]
    replayed: bool


def release_name(product: str) -> str:
    """The name under which a product's releases are registered."""
    return PREFIX + product


def is_product(name: str) -> bool:
    """Whether a release's name is a product's, so no model's."""
    return name.startswith(PREFIX)


def built(connection: Connection) -> list[dict[str, Any]]:
    """Every product that is built, as customers see it."""
    return [_described(name, release, facts) for name, release, facts in _built(connection)]


def listed(connection: Connection, tenant: str, plans: ledger.Plans) -> list[dict[str, Any]]:
    """The same with what each would cost a customer now."""
    plan = connection.execute(select(tables.tenants.c.plan).where(tables.tenants.c.id == tenant)).scalar_one()
    period, so_far, _ = ledger.month(connection, tenant)
    found = []
    for name, release, facts in _built(connection):
        terms = plans(plan, now_us(connection))
        amount = terms.amount(so_far, so_far.plus(units_of(facts)))
        costs = {"amount_nano": amount, "currency": terms.currency, "period": period}
        found.append(_described(name, release, facts) | costs)
    return found


def _built(connection: Connection) -> list[tuple[str, str, dict[str, Any]]]:
    """Name, release and facts of every product."""
    pointers, artifacts = tables.pointers.c, tables.artifacts.c
    query = (
        select(pointers.name, pointers.release, artifacts.facts)
        .join(tables.artifacts, artifacts.digest == pointers.release)
        .where(pointers.name.startswith(PREFIX))
        .order_by(pointers.name)
    )
    rows = connection.execute(query).all()
    return [(name.removeprefix(PREFIX), release, json.loads(facts)) for name, release, facts in rows]


def _described(name: str, release: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": name, "object": "product", "release": release, **_shown(facts)}


def units_of(facts: Mapping[str, Any]) -> Counts:
    """What one download of a product counts."""
    return Counts(requests=1, rows=int(facts["rows"]), downloads=1)


def stale(connection: Connection, people: list[Person]) -> int:
    """How many of a product's people do not consent any more, or only anew since it was built."""
    held = consents.in_force(connection, PURPOSE)
    return sum(held.get((tenant, contributor)) != since for tenant, contributor, since in people)


def people_of(product: Artifact) -> list[Person]:
    """Whose words a product holds, as tenant and contributor, and since when they consent."""
    try:
        rows = json.loads((product.path / PEOPLE).read_bytes())
    except (OSError, ValueError) as error:
        raise ArtifactError("the product's contributors cannot be read", where=str(product.path)) from error
    return [(str(tenant), str(contributor), int(since)) for tenant, contributor, since in rows]


def current(connection: Connection, product: str) -> str:
    """The digest of what is sold under a name now.

    Raises:
        AccessError: 404.
    """
    pointers = tables.pointers.c
    query = select(pointers.release).where(pointers.name == release_name(product))
    digest = connection.execute(query).scalar_one_or_none()
    if digest is None:
        names = connection.execute(select(pointers.name).where(pointers.name.startswith(PREFIX))).scalars()
        hint = did_you_mean(product, [n.removeprefix(PREFIX) for n in names]) or "GET /v1/products lists them"
        raise AccessError("there is no such product", status=404, hint=hint, code="no-product")
    return str(digest)


def size(connection: Connection, product: str) -> int:
    """Bytes of all the files of what is sold under a name now; 0 where there is nothing."""
    pointers, artifacts = tables.pointers.c, tables.artifacts.c
    query = select(artifacts.bytes).join(tables.pointers, pointers.release == artifacts.digest)
    found = connection.execute(query.where(pointers.name == release_name(product))).scalar_one_or_none()
    return int(found or 0)


def sell(store: ArtifactStore, product: str, form: str, buyer: Buyer, plans: ledger.Plans) -> Sold:
    """Sell a product: charge it once and return its bytes; the same purchase again is free and gives the same bytes.

    The bytes are read and checked before anything is charged.

    Args:
        store: where products are, and the database.
        product: its name.
        form: jsonl or csv.
        buyer: who, and the key that makes it the same purchase.
        plans: the buyer's prices.

    Raises:
        AccessError: 404 no such product; 410 somebody whose words it holds has withdrawn.
        QuotaError: a limit of the buyer does not cover it.
        SettingError: no such format, or the idempotency key was used for something else.
        UnavailableError: it kept being built anew.
    """
    if form not in FORMATS:
        raise SettingError(f"a product cannot be had as '{form}'", hint=f"one of {', '.join(FORMATS)}")
    for _ in range(ATTEMPTS):
        with store.database.read() as connection:
            before = ledger.find(connection, buyer.tenant, buyer.idempotency_key, _digest(product, form))
            digest = json.loads(before.body)["release"] if before else current(connection, product)
        artifact = store.verify(store.get(digest))
        content = (artifact.path / f"rows.{form}").read_bytes()
        job = partial(_sell, what=_Purchase(product, form, artifact, people_of(artifact)), buyer=buyer, plans=plans)
        try:
            receipt, replayed = store.database.write(job, order=buyer.tenant)
        except ConflictError as error:
            if error.name != "product-changed":
                raise
            continue
        except UnavailableError:  # nobody knows whether it was committed: read again
            with store.database.read() as connection:
                known = ledger.find(connection, buyer.tenant, buyer.idempotency_key, _digest(product, form))
            if known is None or json.loads(known.body)["release"] != digest:
                raise
            receipt, replayed = json.loads(known.body), before is not None
        return Sold(content, receipt, replayed)
    raise UnavailableError("the product is being built again and again", hint="send it again; it was not charged")


class _Purchase(NamedTuple):
    product: str
    form: str
    artifact: Artifact
    people: list[Person]


def _sell(connection: Connection, *, what: _Purchase, buyer: Buyer, plans: ledger.Plans) -> tuple[dict[str, Any], bool]:
    product, form, artifact, people = what
    units = units_of(artifact.facts)
    ask = ledger.Ask(
        request=str(ULID()),
        tenant=buyer.tenant,
        idempotency_key=buyer.idempotency_key,
        body_sha256=_digest(product, form),
        units=units,
        lease_s=LEASE_S,
        key=buyer.key,
    )
    held = ledger.hold(connection, ask, plans, str(ULID()))
    if isinstance(held, ledger.Busy):
        raise ConflictError("this purchase is being worked on", hint="send it again in a moment", code="in-progress")
    if isinstance(held, ledger.Hold):
        _refuse_unpriced(connection, buyer.tenant, plans)
    consents.hold_still(connection)
    if gone := stale(connection, people):
        raise AccessError(
            f"{gone} of the people in this product no longer allow it to be shared",
            status=410,
            where=product,
            hint="nothing was charged; it can be had again once it is built without them",
            code="product-withdrawn",
        )
    if isinstance(held, ledger.Replay):
        receipt = json.loads(held.body)
        if receipt["release"] != artifact.digest:  # bought by somebody else's request with this key meanwhile
            raise ConflictError("another build was bought meanwhile", code="product-changed")
        return receipt, True
    if current(connection, product) != artifact.digest:
        raise ConflictError("the product was built again meanwhile", code="product-changed")
    done = ledger.Done(buyer.key, artifact.digest, ROUTE + product, units, 0)

    def render(charge: ledger.Charge) -> bytes:
        usage = dict(units) | {"amount_nano": charge.amount_nano, "currency": charge.currency}
        sale = {"id": charge.request, "object": "sale", "product": product, "format": form, "usage": usage}
        return canonical(sale | {"release": artifact.digest, **_shown(artifact.facts)})

    _, body = ledger.capture(connection, held, done, plans, render)
    return json.loads(body), False


def _refuse_unpriced(connection: Connection, tenant: str, plans: ledger.Plans) -> None:
    """A plan that says nothing of products would give them away."""
    plan = connection.execute(select(tables.tenants.c.plan).where(tables.tenants.c.id == tenant)).scalar_one()
    if not {"rows", "downloads"} & set(plans(plan, now_us(connection)).priced):
        raise ConflictError(
            f"the plan '{plan}' has no price for data products",
            where=f"tenant '{tenant}'",
            hint="put the customer on a plan that prices rows or downloads; '0 USD' gives them away",
            code="product-not-priced",
        )


def _digest(product: str, form: str) -> str:
    return hashlib.sha256(f"{ROUTE}{product}\n{form}".encode()).hexdigest()


def _shown(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What customers may know of a product: not how many rows and people were left out."""
    return {name: facts[name] for name in ("kind", "licence", "columns", "rows", "least")}
