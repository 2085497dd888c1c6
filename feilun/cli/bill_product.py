"""``feilun bill product``: rows or counts of people who let them be shared, built, listed and sold."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from feilun.cli.options import HERE, Json, Root, Set, open_wheel
from feilun.show import print_json, print_table, progress, say, short

if TYPE_CHECKING:
    from feilun.bill.products import Built

app = typer.Typer(help="Data products: build, list, sell.", no_args_is_help=True)


@app.command()
def build(
    name: Annotated[str | None, typer.Argument(help="Which section bill.products.NAME; the only one.")] = None,
    changes: Set = [],  # noqa: B006 - typer makes a new one for each call
    project: Root = HERE,
    json: Json = False,
) -> None:
    """Build a product from whose contributors consent to 'share' now; from then on this build is sold."""
    with open_wheel(project, changes) as wheel, progress() as observe:
        built = wheel.build_product(name, observe)
    if json:
        print_json({"release": built.artifact.digest, "new": built.is_new, "card": built.card})
    else:
        _show(built)


@app.command("list")
def list_(
    tenant: Annotated[str | None, typer.Option(help="With what a download costs this customer now.")] = None,
    project: Root = HERE,
    json: Json = False,
) -> None:
    """What is for sale, and what a download would cost a customer now."""
    from feilun.store.money import format_money

    with open_wheel(project) as wheel:
        found = wheel.products(tenant)
    if json:
        print_json(found)
        return
    rows = [[p["id"], p["kind"], p["rows"], ", ".join(p["columns"]), p["licence"]] for p in found]
    heads = ["name", "kind", "rows", "columns", "licence"]
    if tenant is not None:
        rows = [[*row, format_money(p["amount_nano"], p["currency"])] for row, p in zip(rows, found, strict=True)]
        heads.append("costs now")
    print_table("data products", heads, rows)


@app.command()
def sell(
    name: Annotated[str, typer.Argument(help="Of the product.")],
    tenant: Annotated[str, typer.Option(help="Who buys.")],
    out: Annotated[Path, typer.Option(help="Where the rows go: .jsonl or .csv.")],
    same: Annotated[str | None, typer.Option(help="Sold again under this word, it is the same purchase.")] = None,
    project: Root = HERE,
    json: Json = False,
) -> None:
    """Charge a customer for a download and write it into a file."""
    from feilun.store.money import format_money

    with open_wheel(project) as wheel:
        sold = wheel.sell_product(name, tenant, form=out.suffix.removeprefix(".") or "jsonl", same=same)
    out.write_bytes(sold.content)
    if json:
        print_json(dict(sold.receipt) | {"replayed": sold.replayed, "file": str(out)})
        return
    usage = sold.receipt["usage"]
    was = "was sold before" if sold.replayed else "sold"
    say(f"{was}: {sold.receipt['rows']:,} rows to {tenant} for {format_money(usage['amount_nano'], usage['currency'])}")
    say(f"  release {short(sold.receipt['release'])}, request {sold.receipt['id']}; wrote {out}")


def _show(built: Built) -> None:
    card = built.card
    counts = card["counts"]
    state = "" if built.is_new else " (as it was)"
    say(f"product [bold]{card['name']}[/bold] is release {short(built.artifact.digest)}{state}")
    print_table(
        f"{card['contributors']:,} contributors", ["rows", ""], [[k.replace("_", " "), n] for k, n in _numbers(counts)]
    )
    recall = counts.get("recall", {})
    if recall:
        rows = [[k, f"{r['found']} of {r['of']}", f"[{r['low']:.2f}, {r['high']:.2f}]"] for k, r in recall.items()]
        print_table("masking: identifiers found in a written corpus", ["entity/language", "found", "95 %"], rows)
    say(f"  {card['statement']}")


def _numbers(counts: dict[str, Any]) -> list[tuple[str, Any]]:
    flat = [(k, n) for k, n in counts.items() if isinstance(n, int)]
    masked = counts.get("masked")
    return flat + ([(f"masked: {k}", n) for k, n in masked.items()] if isinstance(masked, dict) else [])
