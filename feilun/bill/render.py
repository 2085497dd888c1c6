"""An invoice for people and programs: plain text, JSON, CSV; its page of HTML and its paper are made elsewhere."""

from __future__ import annotations

import csv
import io
import re
import textwrap
import unicodedata
from collections.abc import Sequence

from feilun.bill.form import Form, form_of
from feilun.bill.invoice import Invoice
from feilun.bill.render_html import as_html
from feilun.bill.wording import LANGUAGES, Language
from feilun.errors import SettingError, did_you_mean

__all__ = ["CSV_HEADINGS", "FORMS", "as_bytes", "as_csv", "as_html", "as_json", "as_text", "file_name", "neutral"]

CSV_HEADINGS = (  # programs read them by name and by place: new ones are added at the end
    *("invoice", "tenant", "line", "kind", "period", "description", "units", "unit_price", "amount", "currency"),
    *("price_version", "release", "arithmetic", "meter", "price_per", "exact_amount", "query"),
)
FORMS = ("pdf", "html", "csv", "json", "text")
LONGEST = 60  # columns of a terminal for the text of a line
_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_FORMULA = tuple("=+-@\t\r\n|%＝＋－＠")  # what a spreadsheet may take for the beginning of a formula, or of a new cell


def as_bytes(invoice: Invoice, form: str, language: Language = "en") -> bytes:
    """One of ``FORMS`` as a file of its own. CSV and JSON are for programs: they are the same in either language.

    Raises:
        SettingError: there is no such form, or no such language.
    """
    if form not in FORMS:
        hint = did_you_mean(form, FORMS) or f"forms are {', '.join(FORMS)}"
        raise SettingError(f"there is no form '{form}' of an invoice", hint=hint)
    if language not in LANGUAGES:
        raise SettingError(f"there are no invoices in '{language}'", hint=f"one of {', '.join(LANGUAGES)}")
    if form == "pdf":
        from feilun.bill.pdf import as_pdf  # brings in reportlab

        return as_pdf(invoice, language)
    made = {
        "html": lambda: as_html(invoice, language),
        "csv": lambda: as_csv([invoice]),
        "json": lambda: as_json(invoice),
        "text": lambda: as_text(invoice, language),
    }
    return made[form]().encode()


def file_name(invoice: Invoice, form: str) -> str:
    """What its file is called: ``INV-000001-acme.pdf``."""
    return f"{invoice.number}-{invoice.tenant}.{'txt' if form == 'text' else form}"


def as_text(invoice: Invoice, language: Language = "en") -> str:
    """Everything that the invoice says, for a terminal: columns are aligned, Chinese characters being two wide."""
    form = form_of(invoice, language)
    told = [f"{form.title} {form.number}" + (f"  [{form.mark}] {form.warning}" if form.mark else ""), ""]
    told += _aligned([[f"{label}:", value] for label, value in form.facts[1:]])
    told += [f"{party.heading}: {' · '.join((party.name, *party.more))}" for party in form.parties]
    told += ["", *_table(form), "", *form.notes, ""]
    return "\n".join(_printable(part).rstrip() for part in told)


def _table(form: Form) -> list[str]:
    rows = [[form.word(name) for name in ("line", "what", "units", "unit_price", "amount")]]
    for group in form.groups:
        for entry in group.entries:
            first, *more = _wrapped(entry.description) or [""]
            rows.append([entry.id, first, entry.units, entry.unit_price, entry.amount])
            rows += [["", f"  {part}", "", "", ""] for part in (*more, *_wrapped(entry.arithmetic))]
    rows += [["", total.label, "", "", total.amount] for total in form.totals]
    return _aligned(rows, right=(2, 3, 4))


def _wrapped(text: str) -> list[str]:
    """In lines that a terminal has room for beside the numbers."""
    return textwrap.wrap(text, LONGEST // 2 if _wide(text) > len(text) else LONGEST)


def _aligned(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    shown = [[_printable(cell) for cell in row] for row in rows]
    widths = [max(_wide(row[i]) for row in shown) for i in range(len(shown[0]))]
    return [
        "  ".join(
            " " * (width - _wide(cell)) + cell if i in right else cell + " " * (width - _wide(cell))
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in shown
    ]


def _printable(text: str) -> str:
    """Without what would command a terminal: escapes, changes of direction, line feeds."""
    return "".join(char if char.isprintable() else " " for char in text)


def _wide(text: str) -> int:
    """How many columns of a terminal it takes."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in ("W", "F") else 1 for c in text
    )


def as_json(invoice: Invoice) -> str:
    """The stored body, byte for byte."""
    return invoice.body


def as_csv(invoices: Sequence[Invoice]) -> str:
    """Every line of the invoices, amounts as decimal numbers, formulas neutralised (RELIABILITY 53)."""
    file = io.StringIO()
    writer = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\r\n")  # RFC 4180
    writer.writerow(CSV_HEADINGS)
    for invoice in invoices:
        for line in invoice.lines:
            cells = [invoice.number, invoice.tenant, line.id, line.kind, line.period, line.description, str(line.units)]
            cells += [_decimal(line.unit_nano), _decimal(line.amount_nano), invoice.currency]
            cells += [line.price_version, line.release or "", line.arithmetic, line.meter or ""]
            cells += [str(line.words.get("per", 1)), _decimal(line.exact_nano), line.query or ""]
            writer.writerow([neutral(cell) for cell in cells])
    return file.getvalue().encode("utf-8", "replace").decode()  # a lone surrogate becomes a question mark


def neutral(cell: str) -> str:
    """A cell that no spreadsheet runs: what could begin a formula is quoted; plain numbers stay numbers.

    >>> neutral("=1+1"), neutral("-0.05"), neutral("acme")
    ("'=1+1", '-0.05', 'acme')
    """
    risky = cell.startswith(_FORMULA) or cell.lstrip().startswith(_FORMULA)
    return f"'{cell}" if risky and not _NUMBER.fullmatch(cell) else cell


def _decimal(nano: int) -> str:
    """Nano-units as a plain decimal number, for programs.

    >>> _decimal(-800_000), _decimal(19 * 10**9)
    ('-0.0008', '19')
    """
    sign = "-" if nano < 0 else ""
    whole, rest = divmod(abs(nano), 10**9)
    return f"{sign}{whole}" + (f".{rest:09d}".rstrip("0") if rest else "")
