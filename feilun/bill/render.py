"""An invoice for people and programs: rows of text, JSON, CSV and a page of HTML that needs nothing else."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape

from feilun.bill.invoices import Invoice
from feilun.bill.rating import Line
from feilun.store.money import format_money

HEADINGS = ("line", "what", "units", "unit price", "amount")
CSV_HEADINGS = (
    *("invoice", "tenant", "line", "kind", "period", "description", "units", "unit_price", "amount", "currency"),
    *("price_version", "release", "arithmetic"),
)
_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_FORMULA = tuple("=+-@\t\r\n|%＝＋－＠")  # what a spreadsheet may take for the beginning of a formula, or of a new cell


def as_rows(invoice: Invoice) -> list[tuple[str, str, str, str, str]]:
    """One row of text for each line, under ``HEADINGS``; the total is ``invoice.total``."""
    return [_row(invoice, line) for line in invoice.lines]


def as_text(invoice: Invoice) -> str:
    """A plain table with its total."""
    rows = [HEADINGS, *as_rows(invoice), ("", "total", "", "", invoice.total)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADINGS))]
    left = (True, True, False, False, False)
    table = (
        "  ".join(
            cell.ljust(w) if is_left else cell.rjust(w) for cell, w, is_left in zip(row, widths, left, strict=True)
        )
        for row in rows
    )
    return "\n".join([_title(invoice), "", *(line.rstrip() for line in table), ""])


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
            cells += [line.price_version, line.release or "", line.arithmetic]
            writer.writerow([neutral(cell) for cell in cells])
    return file.getvalue()


def neutral(cell: str) -> str:
    """A cell that no spreadsheet runs: what could begin a formula is quoted; plain numbers stay numbers.

    >>> neutral("=1+1"), neutral("-0.05"), neutral("acme")
    ("'=1+1", '-0.05', 'acme')
    """
    risky = cell.startswith(_FORMULA) or cell.lstrip().startswith(_FORMULA)
    return f"'{cell}" if risky and not _NUMBER.fullmatch(cell) else cell


def as_html(invoice: Invoice) -> str:
    """A page without scripts or anything from elsewhere; every value is escaped."""
    lines = "\n".join(_html_line(invoice, line) for line in invoice.lines)
    title = escape(_title(invoice))
    traceable = next((line.id for line in invoice.lines if line.release), None)
    followed = f" To follow a line to the examples behind it: feilun trace {escape(traceable)}" if traceable else ""
    draft = "" if invoice.number != "DRAFT" else "<p>This is a draft; it was not issued.</p>"
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 3rem auto; max-width: 60rem; padding: 0 1rem; color: #1c2430 }}
table {{ border-collapse: collapse; width: 100% }}
th, td {{ text-align: left; padding: .5rem; border-bottom: 1px solid #d8dde4; vertical-align: top }}
td.n, th.n {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }}
tfoot td {{ font-weight: 600; border: 0 }}
small, summary {{ color: #5a6675 }}
code {{ font-size: .8rem; overflow-wrap: anywhere }}
</style>
<h1>{title}</h1>
{draft}
<table>
<thead>
<tr><th>Line</th><th>What</th><th class="n">Units</th><th class="n">Unit price</th><th class="n">Amount</th></tr>
</thead>
<tbody>
{lines}
</tbody>
<tfoot><tr><td></td><td>Total</td><td></td><td></td><td class="n">{escape(invoice.total)}</td></tr></tfoot>
</table>
<p><small>Usage rows {invoice.first_sequence:,} to {invoice.last_sequence:,} of the ledger. Each line is rounded
once, half to even.{followed}</small></p>
</html>
"""


def _html_line(invoice: Invoice, line: Line) -> str:
    _, description, units, price, amount = (escape(cell) for cell in _row(invoice, line))
    versions = f"price {escape(line.price_version[:12])}"
    if line.release:
        versions += f", release {escape(line.release[:12])}"
    query = f"<details><summary>query</summary><code>{escape(line.query)}</code></details>" if line.query else ""
    return (
        f'<tr id="{escape(line.id)}"><td>{escape(line.id)}</td>'
        f"<td>{description}<br><small>{escape(line.arithmetic)} · {versions}</small>{query}</td>"
        f'<td class="n">{units}</td><td class="n">{price}</td><td class="n">{amount}</td></tr>'
    )


def _row(invoice: Invoice, line: Line) -> tuple[str, str, str, str, str]:
    price, amount = (format_money(nano, invoice.currency) for nano in (line.unit_nano, line.amount_nano))
    return line.id, line.description, f"{line.units:,}", price, amount


def _title(invoice: Invoice) -> str:
    moment = datetime.fromtimestamp(invoice.at // 10**6, UTC)
    until = f", up to {moment:%Y-%m-%d %H:%M} UTC" if invoice.interim else ""
    return f"Invoice {invoice.number} for {invoice.tenant}, {invoice.period}{until}"


def _decimal(nano: int) -> str:
    """Nano-units as a plain decimal number, for programs.

    >>> _decimal(-800_000), _decimal(19 * 10**9)
    ('-0.0008', '19')
    """
    sign = "-" if nano < 0 else ""
    whole, rest = divmod(abs(nano), 10**9)
    return f"{sign}{whole}" + (f".{rest:09d}".rstrip("0") if rest else "")
