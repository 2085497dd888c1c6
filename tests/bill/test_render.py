from __future__ import annotations

import csv
import io
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feilun.accounts.terms import Terms
from feilun.bill.invoices import Invoice
from feilun.bill.rating import fee_line
from feilun.bill.render import HEADINGS, as_csv, as_html, as_json, as_rows, as_text, neutral

LINE = replace(fee_line(Terms("USD", 19 * 10**9), "starter", "2026-09"), id="INV-000001/1")
INVOICE = Invoice(
    number="INV-000001",
    tenant="acme",
    period="2026-09",
    interim=False,
    currency="USD",
    total_nano=19 * 10**9,
    first_sequence=1,
    last_sequence=0,
    at=1_790_812_800_000_000,
    lines=(LINE,),
    body='{"as":"stored"}',
)


class Seen(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1+2", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "  =1", "＝1", "-", "--1"])
def test_case_53_a_cell_that_could_begin_a_formula_is_neutralised(cell: str) -> None:
    assert neutral(cell) == f"'{cell}"
    told = as_csv([replace(INVOICE, tenant=cell, lines=(replace(LINE, description=cell),))])
    row = list(csv.reader(io.StringIO(told, newline="")))[1]
    assert row[1] == row[5] == f"'{cell}"


@given(number=st.one_of(st.integers(), st.decimals(allow_nan=False, allow_infinity=False, places=3)))
def test_case_53_a_plain_number_stays_a_number(number: object) -> None:
    assert neutral(f"{number:f}" if not isinstance(number, int) else str(number)).startswith("'") is False


@given(text=st.text(max_size=50))
def test_case_51_markup_in_any_value_stays_text_on_the_page(text: str) -> None:
    hostile = text + "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&"
    line = replace(LINE, description=hostile, query=hostile, release=hostile, arithmetic=hostile, id=hostile)
    seen = Seen()
    seen.feed(as_html(replace(INVOICE, tenant=hostile, number=hostile, lines=(line,))))
    assert not {"script", "img"} & seen.tags
    assert not {"onerror", "src", "href"} & seen.attributes
    assert "<script>alert(1)</script>" in seen.text


def test_json_is_the_stored_body_byte_for_byte() -> None:
    assert as_json(INVOICE) == INVOICE.body


def test_a_table_has_a_row_for_each_line_and_the_total() -> None:
    assert all(len(row) == len(HEADINGS) for row in as_rows(INVOICE))
    assert as_text(INVOICE).splitlines() == [
        "Invoice INV-000001 for acme, 2026-09",
        "",
        "line          what                                   units  unit price     amount",
        "INV-000001/1  Plan starter, monthly fee for 2026-09      1   19.00 USD  19.00 USD",
        "              total                                                     19.00 USD",
    ]


def test_csv_gives_amounts_as_plain_decimals() -> None:
    table = list(csv.DictReader(io.StringIO(as_csv([INVOICE]), newline="")))
    assert [(row["line"], row["unit_price"], row["amount"], row["currency"]) for row in table] == [
        ("INV-000001/1", "19", "19", "USD")
    ]
