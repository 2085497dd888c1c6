"""Which artefact was made from which: the graph of parents, walked either way."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, select

from feilun.store import tables


@dataclass(frozen=True)
class Link:
    """One artefact on the way, and how many steps away it is."""

    digest: str
    kind: str
    distance: int


def ancestors(connection: Connection, digest: str) -> list[Link]:
    """All that ``digest`` was made from, nearest first; itself at distance 0."""
    return _walk(connection, digest, source="child", target="parent")


def descendants(connection: Connection, digest: str) -> list[Link]:
    """All that was made from ``digest``, nearest first; itself at distance 0."""
    return _walk(connection, digest, source="parent", target="child")


def _walk(connection: Connection, digest: str, source: str, target: str) -> list[Link]:
    edges = tables.parents
    distances = {digest: 0}
    frontier = [digest]
    while frontier:
        step = select(edges.c[source], edges.c[target]).where(edges.c[source].in_(frontier))
        found = connection.execute(step).all()
        depth = distances[frontier[0]] + 1
        frontier = sorted({row[1] for row in found} - distances.keys())
        distances.update(dict.fromkeys(frontier, depth))
    artifacts = tables.artifacts.c
    known = connection.execute(select(artifacts.digest, artifacts.kind).where(artifacts.digest.in_(list(distances))))
    kinds = {row.digest: row.kind for row in known}
    return sorted((Link(d, kinds[d], n) for d, n in distances.items() if d in kinds), key=lambda k: k.distance)
