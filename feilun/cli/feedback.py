"""``feilun feedback``: what users said of the answers."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated

import typer

from feilun.cli.options import HERE, Json, Root, open_wheel
from feilun.show import print_json, print_table, say

app = typer.Typer(
    help="Corrections by users and their consent: list, import, export, consent, withdraw.", no_args_is_help=True
)
Tenant = Annotated[str | None, typer.Option(help="Only this customer's.")]


@app.command("list")
def list_(tenant: Tenant = None, project: Root = HERE, json: Json = False) -> None:
    """How much there is, by customer: corrections, changed labels, and consent."""
    with open_wheel(project) as wheel:
        rows = wheel.feedback(tenant)
    counts = [
        {
            "tenant": name,
            "corrections": len(mine),
            "changed": sum(r["label"] != r["answered"] for r in mine),
            "contributors": len({r["contributor"] for r in mine}),
            "consented": sum(r["consent"] for r in mine),
        }
        for name in sorted({r["tenant"] for r in rows})
        for mine in [[r for r in rows if r["tenant"] == name]]
    ]
    if json:
        print_json(counts)
        return
    heads = ["customer", "corrections", "changed the label", "contributors", "with consent"]
    print_table("feedback", heads, [list(c.values()) for c in counts])


@app.command("export")
def export(
    file: Annotated[Path, typer.Argument(help="Where the JSON lines go.")],
    tenant: Tenant = None,
    project: Root = HERE,
    json: Json = False,
) -> None:
    """Write every correction whose consent holds as a line of JSON, in the form that import reads."""
    with open_wheel(project) as wheel:
        rows = [row for row in wheel.feedback(tenant) if row["consent"]]
    names = ("tenant", "request", "input", "text", "answered", "label", "contributor", "consent", "at")
    lines = [jsonlib.dumps({name: row[name] for name in names}, ensure_ascii=False) for row in rows]
    file.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    if json:
        print_json({"file": str(file), "rows": len(rows)})
    else:
        say(f"wrote {len(rows):,} corrections to {file}")


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help='JSON lines: {"request", "input", "text", "label", "contributor"}.')],
    tenant: Annotated[str, typer.Option(help="Whose requests they correct.")],
    project: Root = HERE,
    json: Json = False,
) -> None:
    """Take corrections of answered requests, by their contributors' consent; all lines or none."""
    from feilun.feedback.lines import read_lines

    with open_wheel(project) as wheel:
        taken = wheel.import_feedback(tenant, read_lines(file))
    new = sum(row["status"] == "recorded" for row in taken)
    if json:
        print_json({"read": len(taken), "recorded": new, "known": len(taken) - new})
    else:
        say(f"read {len(taken):,} corrections: {new:,} are new, {len(taken) - new:,} were known")


@app.command("consent")
def consent(
    contributor: Annotated[str, typer.Argument(help="Who allows it.")],
    tenant: Annotated[str, typer.Option(help="At which customer.")],
    purpose: Annotated[str, typer.Option(help="serve, learn, or share: their words may be sold.")],
    project: Root = HERE,
    json: Json = False,
) -> None:
    """Note that a contributor allows a purpose, from now on."""
    with open_wheel(project) as wheel:
        wheel.consent(tenant, contributor, purpose)
    if json:
        print_json({"tenant": tenant, "contributor": contributor, purpose: True})
    else:
        say(f"{contributor} at {tenant}: allows to {purpose}")


@app.command("withdraw")
def withdraw(
    contributor: Annotated[str, typer.Argument(help="Who no longer wants to be learned from.")],
    tenant: Annotated[str, typer.Option(help="At which customer.")],
    project: Root = HERE,
    json: Json = False,
) -> None:
    """Note that a contributor withdraws all consent: later turns and products leave their words out."""
    with open_wheel(project) as wheel:
        gone = wheel.withdraw(tenant, contributor)
    if json:
        print_json({"tenant": tenant, "contributor": contributor} | dict.fromkeys(gone, False))
        return
    say(f"{contributor} at {tenant}: no longer learned from, from the next turn on")
    if "share" in gone:
        say("  products with their words are not sold any more until: feilun bill product build")
