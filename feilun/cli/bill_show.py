"""``feilun bill show``: an invoice or a credit note as its reader gets it, on paper, as a page, or for programs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from feilun.cli.options import HERE, Root, open_wheel
from feilun.errors import SettingError
from feilun.show import say

if TYPE_CHECKING:
    from feilun.bill.invoice import Invoice
    from feilun.bill.wording import Language
    from feilun.store.database import Database


def show(
    number: Annotated[str, typer.Argument(help="Of an invoice or a credit note: INV-000001, CN-000001.")],
    form: Annotated[str, typer.Option(help="pdf, html, csv, json or text.")] = "text",
    language: Annotated[str | None, typer.Option(help="en or zh; the customer's own by default.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write it to this file, or into this folder.")] = None,
    project: Root = HERE,
) -> None:
    """One closed invoice or credit note, as it was stored, in the form and the language that its reader needs."""
    from feilun.bill import credit_notes, invoices, render
    from feilun.bill.wording import LANGUAGES

    with open_wheel(project) as wheel:
        get = credit_notes.get if number.startswith("CN-") else invoices.get
        invoice = get(wheel.database, number)
        own = language_of(wheel.database, invoice.tenant)
    chosen = own if language is None else next((known for known in LANGUAGES if known == language), None)
    if chosen is None:
        raise SettingError(f"there are no invoices in '{language}'", hint=f"one of {', '.join(LANGUAGES)}")
    if form == "pdf" and out is None and sys.stdout.isatty():
        raise SettingError("a PDF is not for a terminal", hint="write it to a file: --out invoice.pdf")
    content = render.as_bytes(invoice, form, chosen)
    if out is None:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    say(f"  wrote {_put(out, invoice, form, content)}")


def write(database: Database, invoices: list[Invoice], folder: Path) -> list[Path]:
    """PDF, HTML, CSV and JSON of each invoice into a folder, in its customer's language; which files it wrote."""
    from feilun.bill import render

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for invoice in invoices:
        language = language_of(database, invoice.tenant)
        for form in ("pdf", "html", "csv", "json"):
            written.append(_put(folder, invoice, form, render.as_bytes(invoice, form, language)))
    return written


def language_of(database: Database, tenant: str) -> Language:
    """What a customer's invoices are written in: English unless their profile says otherwise."""
    from feilun.bill import profiles

    with database.read() as connection:
        return "zh" if profiles.newest(connection, tenant).get("language") == "zh" else "en"


def _put(out: Path, invoice: Invoice, form: str, content: bytes) -> Path:
    from feilun.bill.render import file_name

    file = out / file_name(invoice, form) if out.is_dir() else out
    try:
        file.write_bytes(content)
    except OSError as error:
        raise SettingError(
            f"cannot write {file}: {error.strerror}", hint="name a file or a folder that exists"
        ) from None
    return file
