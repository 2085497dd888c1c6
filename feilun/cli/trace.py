"""``feilun trace``: from an invoice line to the people behind it, and back."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from feilun.cli.options import HERE, Json, Root, open_wheel
from feilun.show import print_json, print_table, say, short


def trace(
    what: Annotated[str, typer.Argument(help="An invoice line (INV-000001/2) or a contributor.")],
    project: Root = HERE,
    json: Json = False,
) -> None:
    """Follow an invoice line back to its examples and their contributors, or a contributor forward to the money."""
    with open_wheel(project) as wheel:
        found = wheel.trace(what).as_dict()
    if json:
        print_json(found)
    elif "line" in found:
        _show_line(found)
    else:
        _show_contributor(found)


def _show_line(found: dict[str, Any]) -> None:
    line = found["line"]
    say(f"[bold]{line['id']}[/bold] of {found['tenant']}: {line['description']}")
    say(f"  {line['arithmetic']}")
    if found["release"] is None:
        say("  a monthly fee: no model stands behind it")
        return
    if found["product"] is not None:
        _show_product(found)
        return
    say(f"  {found['usage']['rows']:,} requests, answered by release {short(found['release']['digest'])}")
    say(f"  made from {', '.join(short(m['digest']) for m in found['models'])}")
    rows = [
        [short(d["digest"]), ", ".join(d["domains"]), d["train"], d["contributors"], d["licence"]]
        for d in found["datasets"]
    ]
    print_table("datasets behind it", ["dataset", "domains", "training rows", "contributors", "licence"], rows)
    told = found["feedback"]
    say(
        f"  {found['examples']:,} examples of {found['contributors']:,} contributors; "
        f"{told['rows']:,} are users' corrections"
    )
    if told["rows"]:
        say(
            f"  {told['consent_in_force']:,} of their authors consent to learning from them today, "
            f"{told['consent_withdrawn']:,} have withdrawn"
        )


def _show_product(found: dict[str, Any]) -> None:
    product = found["product"]
    release = short(found["release"]["digest"])
    say(f"  {found['usage']['rows']:,} downloads of the data product {product['name']}, release {release}")
    say(f"  {product['rows']:,} rows of {product['contributors']:,} contributors")
    say(
        f"  {product['consent_in_force']:,} of them let their words be shared today, "
        f"{product['consent_withdrawn']:,} have withdrawn"
    )
    for source in found["datasets"]:
        say(f"  from dataset {short(source['digest'])}, licence {source['licence']}")


def _show_contributor(found: dict[str, Any]) -> None:
    say(f"[bold]{found['contributor']}[/bold]")
    for consent in found["consents"]:
        allows = "allows" if consent["granted"] else "does not allow"
        say(f"  {allows} {consent['tenant']} to {consent['purpose']} from their words")
    rows = [[short(d["digest"]), ", ".join(d["domains"]), d["train"], d["test"]] for d in found["datasets"]]
    print_table("their examples", ["dataset", "domains", "training rows", "held-out rows"], rows)
    say(f"  models {', '.join(short(m['digest']) for m in found['models']) or 'none'}")
    say(f"  releases {', '.join(short(r['digest']) for r in found['releases']) or 'none'}")
    say(f"  invoice lines {', '.join(line['id'] for line in found['lines']) or 'none'}")
