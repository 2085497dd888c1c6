"""``feilun releases``: what was built, what is served, and changing that."""

from __future__ import annotations

import json as jsonlib
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from feilun.cli.options import HERE, Json, Root, open_wheel
from feilun.cli.run import chosen, in_words
from feilun.show import interval, print_json, print_table, progress, say, short, when

if TYPE_CHECKING:
    from feilun.flywheel import Flywheel
    from feilun.store.releases import Pointer
    from feilun.store.rollouts import Rollout

app = typer.Typer(help="Releases: list, evaluate, promote, try out beside others, roll back.", no_args_is_help=True)

Which = Annotated[str, typer.Argument(help="name@digest, as 'feilun releases list' shows it.")]
Name = Annotated[str, typer.Argument(help="The model's name.")]
Reason = Annotated[str, typer.Option(help="Kept in the history.")]
Share = Annotated[float, typer.Option(help="Of the traffic, from 0 to 1.")]
Tenants = Annotated[list[str] | None, typer.Option("--tenant", help="Always for this customer (may be repeated).")]
Sticky = Annotated[
    Literal["tenant", "request"], typer.Option("--by", help="All requests of a customer go one way, or each its own.")
]
End = Annotated[bool, typer.Option("--end", help="End it; the name alone is enough then.")]


@app.command("list")
def list_(project: Root = HERE, json: Json = False) -> None:
    """Every release: which of them answers, which beside it, whose it is, with why and when it was promoted."""
    from feilun.store import releases, rollouts

    with open_wheel(project) as wheel:
        served = {pointer.release: ["served"] for pointer in releases.pointers(wheel.database)}
        for rollout in rollouts.current(wheel.database):
            served.setdefault(str(rollout.release), []).append(rollout.kind)
        rows: list[dict[str, Any]] = []
        for found in releases.known(wheel.database):
            last = next(
                (p for p in reversed(releases.history(wheel.database, found.name)) if p.digest == found.digest), None
            )
            roles = served.get(found.digest, []) + (["retired"] if found.retired_at is not None else [])
            why = last.reason if last else "never promoted"
            rows.append({"name": found.name, "release": found.digest, "served": "served" in roles, "roles": roles})
            rows[-1] |= {"tenant": found.tenant, "why": why}
    if json:
        print_json(rows)
        return
    table = [[r["name"], short(r["release"]), ", ".join(r["roles"]), r["tenant"] or "", r["why"]] for r in rows]
    print_table("releases", ["name", "release", "", "whose", "why"], table)


@app.command()
def history(name: Name, project: Root = HERE, json: Json = False) -> None:
    """How what answers under a name has changed, its canaries and shadows too; the newest last."""
    from feilun.store import releases, rollouts

    with open_wheel(project) as wheel:
        releases.pointer(wheel.database, name)
        promoted = releases.history(wheel.database, name)
        beside = rollouts.history(wheel.database, name)
    if json:
        print_json({"promotions": [asdict(p) for p in promoted], "rollouts": [asdict(change) for change in beside]})
        return
    rows: list[tuple[int, list[Any]]] = [(p.at, ["served", short(p.digest), p.version, p.reason]) for p in promoted]
    rows += [
        (
            c.at,
            [_told_share(c.kind, c.share, c.tenants), short(c.release) if c.release else "ended", c.version, c.reason],
        )
        for c in beside
    ]
    table = [[when(at), *row] for at, row in sorted(rows, key=lambda row: row[0])]
    print_table(name, ["when", "what", "release", "change", "why"], table)


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="name, or name@digest.")], project: Root = HERE, json: Json = False
) -> None:
    """Figures of a release on the held-out rows of every dataset that the project evaluates."""
    with open_wheel(project) as wheel, progress() as observe:
        report = wheel.evaluate(model, observe)
    said = jsonlib.loads((report.path / "report.json").read_bytes())
    domains = said["domains"]
    if json:
        print_json({"report": report.digest, "path": str(report.path), "domains": domains})
        return
    metrics = chosen(said)
    rows = [[name, d["n"], *(interval(d[m]) if m in d else None for m in metrics)] for name, d in domains.items()]
    columns = ["domain", "rows", *map(in_words, metrics)]
    print_table(f"{model}, held-out rows, 95 % intervals", columns, rows)
    say(f"  with plots: {report.path / 'report.html'}")


@app.command()
def promote(
    model: Annotated[str, typer.Argument(help="name@digest, as 'feilun releases list' shows it; or name:canary.")],
    reason: Reason = "by hand",
    project: Root = HERE,
    json: Json = False,
) -> None:
    """Let a release answer under its name; running gateways follow within a second."""
    from feilun.store import releases

    with open_wheel(project) as wheel:
        name, digest = _one(wheel, model)
        now = releases.find_pointer(wheel.database, name)
        version = 0 if now is None else now.version
        pointer = releases.promote(wheel.database, name, digest, expected_version=version, reason=reason)
    _told(pointer, json)


@app.command("roll-back")
def roll_back(name: Name, reason: Reason = "rolled back by hand", project: Root = HERE, json: Json = False) -> None:
    """Go back to the release that answered before."""
    from feilun.store import releases

    with open_wheel(project) as wheel:
        pointer = releases.rollback(wheel.database, name, reason=reason)
    _told(pointer, json)


@app.command()
def canary(
    model: Which,
    share: Share = 0.0,
    tenant: Tenants = None,
    by: Sticky = "tenant",
    end: End = False,
    reason: Reason = "by hand",
    project: Root = HERE,
    json: Json = False,
) -> None:
    """Let a release answer a share of the traffic, or some customers, under its name; anybody may ask NAME:canary."""
    with open_wheel(project) as wheel:
        rollout = _roll_out(wheel, "canary", "" if end else model, model, (share, tenant or [], by, reason))
    _told_rollout(rollout, json)


@app.command()
def shadow(
    model: Which,
    share: Share = 1.0,
    tenant: Tenants = None,
    by: Sticky = "request",
    end: End = False,
    reason: Reason = "by hand",
    project: Root = HERE,
    json: Json = False,
) -> None:
    """Ask a release the same as what answers, charge nobody, and count how often both agree."""
    with open_wheel(project) as wheel:
        rollout = _roll_out(wheel, "shadow", "" if end else model, model, (share, tenant or [], by, reason))
    _told_rollout(rollout, json)


@app.command()
def agreement(
    name: Annotated[str | None, typer.Argument(help="The model's name; all by default.")] = None,
    project: Root = HERE,
    json: Json = False,
) -> None:
    """How often shadows said the same as the releases that answered."""
    from feilun.store import rollouts

    with open_wheel(project) as wheel:
        found = rollouts.agreements(wheel.database, name)
    if json:
        print_json([asdict(one) for one in found])
        return
    rows = [
        [a.name, short(a.release), short(a.shadow), a.compared, _percent(a.agreed, a.compared), a.failed, a.dropped]
        for a in found
    ]
    columns = ["name", "answered", "shadow", "compared", "agreed", "failed", "dropped"]
    print_table("shadows", columns, rows)


@app.command()
def retire(model: Which, project: Root = HERE, json: Json = False) -> None:
    """Let a release answer no more, not even as name@digest. It cannot be undone; its files stay."""
    from feilun.store import releases

    with open_wheel(project) as wheel:
        name, digest = _one(wheel, model)
        retired = releases.retire(wheel.database, name, digest)
    if json:
        print_json(asdict(retired))
    else:
        say(f"{name}@{short(digest)} answers no more")


def _one(wheel: Flywheel, model: str) -> tuple[str, str]:
    """The name and the digest behind ``name@digits`` or ``name:canary``."""
    from feilun.errors import AccessError, SettingError
    from feilun.store import releases, rollouts

    if model.endswith(":canary"):
        name = model.removesuffix(":canary")
        found = rollouts.find(wheel.database, "canary", name)
        if found is None or found.release is None:
            raise AccessError(f"'{name}' has no canary", status=404, hint="feilun releases list", code="no-release")
        return name, found.release
    name, _, digits = model.partition("@")
    if not digits:
        raise SettingError("which release?", hint="write it as name@digest; see: feilun releases list")
    known = releases.find(wheel.database, name, digits)
    if known is None:
        hint = "feilun releases list shows them"
        raise AccessError(f"there is no one release '{model[:80]}'", status=404, hint=hint, code="no-release")
    return name, known.digest


def _roll_out(
    wheel: Flywheel,
    kind: Literal["canary", "shadow"],
    wanted: str,
    model: str,
    how: tuple[float, list[str], Literal["tenant", "request"], str],
) -> Rollout:
    """``wanted`` is the release, empty to end what there is."""
    from feilun.store import rollouts

    share, tenants, by, reason = how
    name, digest = _one(wheel, wanted) if wanted else (model.partition("@")[0], None)
    return rollouts.change(
        wheel.database,
        kind,
        name,
        digest,
        share=rollouts.share_of(share) if digest is not None else 0,
        tenants=tenants,
        sticky=by,
        expected_version=rollouts.version_of(wheel.database, kind, name),
        reason=reason,
    )


def _told(pointer: Pointer, json: bool) -> None:
    if json:
        print_json(asdict(pointer))
    else:
        say(f"{pointer.name} is now release {short(pointer.release)} (change {pointer.version})")


def _told_rollout(rollout: Rollout, json: bool) -> None:
    from feilun.store import rollouts

    if json:
        print_json(rollouts.as_dict(rollout))
    elif rollout.release is None:
        say(f"{rollout.name} has no {rollout.kind} any more (change {rollout.version})")
    else:
        said = _told_share(rollout.kind, rollout.share, rollout.tenants)
        say(f"{said} of {rollout.name} is release {short(rollout.release)} (change {rollout.version})")


def _told_share(kind: str, share: int, tenants: Any) -> str:
    parts = [f"{share / 100:g} %"] if share else []
    parts += sorted(tenants)
    return f"{kind} for {', '.join(parts)}" if parts else kind


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f} %" if whole else ""
