from __future__ import annotations

import csv
import hashlib
import io
import json
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feilun.bill.form import form_of
from feilun.bill.render import CSV_HEADINGS, FORMS, as_bytes, as_csv, as_html, as_json, as_text, file_name, neutral
from feilun.bill.wording import LANGUAGES, Language
from feilun.errors import SettingError
from feilun.store.money import format_money
from tests.bill.papers import DAY, HOSTILE, NANO, NOVEMBER, invoice, line, of_every_kind, usage

FEE = line("fee", 19 * NANO, words={"plan": "starter"})


class Seen(HTMLParser):
    """What a browser would see: tags, attributes, text, and what is in each cell."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.numbers: list[str] = []
        self._number = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag == "td":
            self._number = ("class", "n") in attrs
            self.numbers += [""] if self._number else []

    def handle_endtag(self, tag: str) -> None:
        self._number = self._number and tag != "td"

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._number:
            self.numbers[-1] += data


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1+2", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "  =1", "＝1", "-", "--1"])
def test_case_53_a_cell_that_could_begin_a_formula_is_neutralised(cell: str) -> None:
    assert neutral(cell) == f"'{cell}"
    made = invoice([replace(FEE, description=cell, arithmetic=cell, query=cell, meter=cell)], tenant=cell)
    row = next(csv.DictReader(io.StringIO(as_csv([made]), newline="")))
    assert [row[name] for name in ("tenant", "description", "arithmetic", "query", "meter")] == [f"'{cell}"] * 5


@given(number=st.one_of(st.integers(), st.decimals(allow_nan=False, allow_infinity=False, places=3)))
def test_case_53_a_plain_number_stays_a_number(number: object) -> None:
    assert neutral(f"{number:f}" if not isinstance(number, int) else str(number)).startswith("'") is False


@given(text=st.text(max_size=50), language=st.sampled_from(LANGUAGES))
def test_case_51_markup_in_any_value_stays_text_on_the_page(text: str, language: Language) -> None:
    hostile = text + "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&"
    words = dict.fromkeys(("plan", "unit", "coupon", "reason", "name", "country", "tax_id", "grant"), hostile)
    lines = [line(kind, NANO, words=words, meter="x", query=hostile) for kind in ("fee", "event", "discount", "tax")]
    lines += [line("credit", -NANO, words=words), replace(FEE, id=hostile, release=hostile, description=hostile)]
    party = dict.fromkeys(("name", "address", "country", "tax_id", "email"), hostile)
    made = invoice(lines, tenant=hostile, number=hostile, buyer=party, seller=party)
    seen = Seen(as_html(made, language))
    assert not {"script", "img"} & seen.tags
    assert not {"onerror", "src", "href"} & seen.attributes
    assert "<script>alert(1)</script>" in seen.text


def test_case_51_the_page_forbids_scripts_and_everything_from_elsewhere() -> None:
    page = as_html(invoice(of_every_kind()))
    assert "default-src 'none'; style-src 'unsafe-inline'" in page
    assert "://" not in page and "url(" not in page and "@import" not in page


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("form", FORMS)
def test_any_name_can_be_shown_in_any_form(name: str, form: str) -> None:
    made = invoice([replace(FEE, description=name)], tenant=name, buyer={"name": name, "address": name})
    assert all(as_bytes(made, form, language) for language in LANGUAGES)


def test_a_change_of_direction_ends_with_the_name_that_has_it() -> None:
    page = as_html(invoice([FEE], buyer={"name": "a\u202eb"}))
    assert "<bdi>a\u202eb</bdi>" in page


def test_text_for_a_terminal_commands_nothing() -> None:
    text = as_text(invoice([replace(FEE, description="\x1b[2J\u202e\r\n\x07x")], buyer={"name": "\x1b]0;x\x07\u202e"}))
    assert all(char.isprintable() or char == "\n" for char in text)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_shows_every_line_and_total_once_and_in_order(language: Language) -> None:
    made = invoice(of_every_kind())
    form = form_of(made, language)
    seen = Seen(as_html(made, language))
    expected = [n for group in form.groups for e in group.entries for n in (e.units, e.unit_price, e.amount)]
    assert seen.numbers == expected + [total.amount for total in form.totals]
    for told in made.lines:
        assert (told.query or "") in seen.text
    for note in form.notes:
        assert note in seen.text


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_shown_adds_up(language: Language) -> None:
    made = invoice(of_every_kind())
    form = form_of(made, language)
    lines = [told for told in made.lines if told.kind not in ("tax", "credit")]
    assert sum(len(group.entries) for group in form.groups) == len(lines)
    sums = [sum(told.amount_nano for told in lines), made.total_nano, made.due_nano]
    assert [total.amount for total in form.totals if total.level] == [format_money(n, "USD") for n in sums]
    assert made.due_nano == sum(told.amount_nano for told in made.lines)


def test_lines_are_grouped_and_late_usage_stands_apart() -> None:
    groups = form_of(invoice(of_every_kind())).groups
    assert [(group.heading, len(group.entries)) for group in groups] == [
        ("Plan", 2),
        ("Usage of earlier months", 1),
        ("Usage", 6),
        ("Trials, discounts and minimum", 3),
    ]


def test_without_taxes_there_is_no_subtotal_and_reverse_charge_is_noted() -> None:
    assert [total.label for total in form_of(invoice([FEE])).totals] == ["Total", "Amount due"]
    words = {"name": "VAT", "country": "DE", "percent": "19", "base_nano": 19 * NANO, "reverse": 1, "tax_id": "DE12"}
    form = form_of(invoice([FEE, line("tax", 0, words=words)]))
    assert (form.totals[0].label, form.totals[0].amount) == ("Subtotal", "19.00 USD")
    assert "Reverse charge: the tax is to be accounted for by the customer." in form.notes
    assert "反向征收：税款由客户自行申报缴纳。" in form_of(invoice([FEE, line("tax", 0, words=words)]), "zh").notes


def test_facts_say_number_dates_period_and_customer() -> None:
    assert form_of(invoice([FEE])).facts == (
        ("Number", "INV-000042"),
        ("Date of issue", "2 December 2026"),
        ("Payment due", "16 December 2026"),
        ("Billing period", "November 2026"),
        ("Customer", "acme"),
    )
    interim = invoice([FEE], interim=True, at=NOVEMBER + 9 * DAY + 3600 * 10**6, due_at=None)
    assert ("Billing period", "November 2026 (up to 10 November 2026, 01:00 UTC)") in form_of(interim).facts
    assert ("账期", "2026年11月（截至 2026年11月10日 01:00 UTC）") in form_of(interim, "zh").facts


def test_only_what_was_issued_asks_for_payment() -> None:
    ask = "Please pay 19.00 USD by 16 December 2026, quoting INV-000042."
    assert ask in form_of(invoice([FEE])).notes
    drafts: list[dict[str, Any]] = [{"state": "draft", "number": "DRAFT"}, {"state": "grace", "number": "DRAFT"}]
    for said in drafts:
        form = form_of(invoice([FEE], **said))
        assert not any("Please pay" in note for note in form.notes)
        assert form.mark and form.warning and form.number == "Draft"
        assert form.mark in Seen(as_html(invoice([FEE], **said))).text
        assert form.warning in as_text(invoice([FEE], **said))
    assert form_of(invoice([FEE])).mark == ""


def test_a_credit_that_pays_for_all_leaves_nothing_due() -> None:
    form = form_of(invoice([FEE, line("credit", -19 * NANO, words={"reason": "Welcome"})]))
    assert [(total.label, total.amount) for total in form.totals] == [
        ("Total", "19.00 USD"),
        ("Prepaid credit used, Welcome", "-19.00 USD"),
        ("Amount due", "0.00 USD"),
    ]
    assert "Payment due" not in dict(form.facts)


def test_json_is_the_stored_body_byte_for_byte_and_its_digest_is_on_the_page() -> None:
    made = invoice([FEE], body='{"as":"stored"}')
    assert as_json(made) == made.body and as_bytes(made, "json", "zh") == made.body.encode()
    digest = hashlib.sha256(b'{"as":"stored"}').hexdigest()
    assert f"SHA-256 of the JSON form: {digest}" in as_html(made)


def test_a_table_for_a_terminal_is_aligned_in_both_languages() -> None:
    assert as_text(invoice([FEE], seller={}, buyer={}, due_at=None, last_sequence=0)).splitlines()[:9] == [
        "Invoice INV-000042",
        "",
        "Date of issue:   2 December 2026",
        "Billing period:  November 2026",
        "Customer:        acme",
        "Bill to: acme",
        "",
        "Line          Description                                  Units  Unit price     Amount",
        "INV-000042/1  Plan starter, monthly fee for November 2026      1   19.00 USD  19.00 USD",
    ]
    chinese = as_text(invoice([FEE], seller={}, buyer={}), "zh").splitlines()
    assert chinese[8:10] == [
        "行号          项目                          数量       单价       金额",
        "INV-000042/1  套餐 starter，2026年11月月费     1  19.00 USD  19.00 USD",
    ]


def test_csv_gives_amounts_as_plain_decimals_under_columns_that_stay() -> None:
    lines = [FEE, usage(2_500, 10_000_000, 25_000_000, meter="tokens", words={"per": 1000})]
    table = list(csv.DictReader(io.StringIO(as_csv([invoice(lines)]), newline="")))
    names = ("line", "unit_price", "price_per", "exact_amount", "amount", "currency", "meter")
    assert [tuple(row[name] for name in names) for row in table] == [
        ("INV-000042/1", "19", "1", "19", "19", "USD", ""),
        ("INV-000042/2", "0.01", "1000", "0.025", "0.02", "USD", "tokens"),
    ]
    assert CSV_HEADINGS[:13] == (
        *("invoice", "tenant", "line", "kind", "period", "description", "units", "unit_price", "amount", "currency"),
        *("price_version", "release", "arithmetic"),
    )


def test_an_unknown_form_or_language_is_answered_with_the_known_ones() -> None:
    with pytest.raises(SettingError) as caught:
        as_bytes(invoice([FEE]), "pfd")
    assert "pdf" in str(caught.value.hint)
    with pytest.raises(SettingError) as caught:
        as_bytes(invoice([FEE]), "pdf", json.loads('"fr"'))
    assert caught.value.hint == "one of en, zh"


def test_files_are_named_by_number_and_customer() -> None:
    assert [file_name(invoice([FEE]), form) for form in ("pdf", "text")] == [
        "INV-000042-acme.pdf",
        "INV-000042-acme.txt",
    ]


def test_a_credit_note_names_its_invoice_and_reason_and_what_is_credited() -> None:
    words = {"plan": "growth", "corrects": "INV-000042/2"}
    lines = [line("fee", -49 * NANO, words=words), line("credit", 9 * NANO, words={"corrects": "INV-000042/3"})]
    said: dict[str, Any] = {"number": "CN-000001", "kind": "credit_note", "corrects": "INV-000042", "reason": "a <b>"}
    note = invoice(lines, due_at=None, **said)
    form = form_of(note)
    assert (form.title, form.number) == ("Credit note", "CN-000001")
    assert form.facts[-2:] == (("Corrects invoice", "INV-000042"), ("Reason", "a <b>"))
    assert (
        form.groups[0].entries[0].description == "Reversal of INV-000042/2: Plan growth, monthly fee for November 2026"
    )
    assert [(total.label.split(":")[0], total.amount) for total in form.totals] == [
        ("Total", "-49.00 USD"),
        ("Prepaid credit given back", "9.00 USD"),
        ("To be paid back or set off", "40.00 USD"),
    ]
    assert len(form.notes) == 2  # of rounding, and the digest
    assert form_of(note, "zh").title == "贷记单" and "应退还或抵扣金额" in as_text(note, "zh")
    assert "a &lt;b&gt;" in as_html(note) and as_bytes(note, "pdf").startswith(b"%PDF")
