"""``feilun releases``: what was built, what is served, and changing that."""

from __future__ import annotations

import json as jsonlib
from dataclasses import asdict
from typing import Annotated, Any

import typer

from feilun.cli.options import HERE, Json, Root, open_wheel
from feilun.cli.run import chosen, in_words
from feilun.show import interval, print_json, print_table, progress, say, short

app = typer.Typer(help="Releases: list, evaluate, promote, roll back.", no_args_is_help=True)


@app.command("list")
def list_(project: Root = HERE, json: Json = False) -> None:
    """Every release; the served one of each name is marked, with why and when it was promoted."""
    from feilun.store import releases

    with open_wheel(project) as wheel:
        served = {pointer.release for pointer in releases.pointers(wheel.database)}
        rows: list[dict[str, Any]] = []
        for digest in releases.registered(wheel.database):
            name = str(wheel.store.get(digest).facts["name"])
            last = next((p for p in reversed(releases.history(wheel.database, name)) if p.digest == digest), None)
            why = last.reason if last else "never promoted"
            rows.append({"name": name, "release": digest, "served": digest in served, "why": why})
    if json:
        print_json(rows)
        return
    table = [[r["name"], short(r["release"]), "served" if r["served"] else "", r["why"]] for r in rows]
    print_table("releases", ["name", "release", "", "why"], table)


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
    model: Annotated[str, typer.Argument(help="name@digest, as 'feilun releases list' shows it.")],
    reason: Annotated[str, typer.Option(help="Kept in the history.")] = "by hand",
    project: Root = HERE,
    json: Json = False,
) -> None:
    """Let a release answer under its name; running gateways follow within a second."""
    from feilun.errors import SettingError
    from feilun.store import releases

    name, _, prefix = model.partition("@")
    if not prefix:
        raise SettingError("which release?", hint="write it as name@digest; see: feilun releases list")
    with open_wheel(project) as wheel:
        now = next((p.version for p in releases.pointers(wheel.database) if p.name == name), 0)
        digest = wheel.store.find(prefix)
        pointer = releases.promote(wheel.database, name, digest, expected_version=now, reason=reason)
    _told(asdict(pointer), json)


@app.command("roll-back")
def roll_back(
    name: Annotated[str, typer.Argument(help="The model's name.")],
    reason: Annotated[str, typer.Option(help="Kept in the history.")] = "rolled back by hand",
    project: Root = HERE,
    json: Json = False,
) -> None:
    """Go back to the release that answered before."""
    from feilun.store import releases

    with open_wheel(project) as wheel:
        pointer = releases.rollback(wheel.database, name, reason=reason)
    _told(asdict(pointer), json)


def _told(pointer: dict[str, Any], json: bool) -> None:
    if json:
        print_json(pointer)
    else:
        say(f"{pointer['name']} is now release {short(pointer['release'])} (change {pointer['version']})")
