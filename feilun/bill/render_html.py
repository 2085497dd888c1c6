"""An invoice as one page of HTML: no scripts, nothing from elsewhere, every value escaped; it prints as A4."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from feilun.bill.form import Entry, Form, Party, Total, form_of
from feilun.bill.invoice import Invoice
from feilun.bill.wording import Language

_STYLE = """
:root { --ink: #1c2430; --grey: #5a6675; --rule: #d8dde4; --shade: #f4f6f8; --accent: #0b5d57; --warning: #a8321f }
* { box-sizing: border-box }
body { margin: 0; background: #e9ecf0; color: var(--ink); overflow-wrap: anywhere;
  font: 14px/1.5 system-ui, "Segoe UI", Helvetica, "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", sans-serif }
main { position: relative; max-width: 54rem; margin: 2rem auto; padding: 3rem; background: #fff; border-radius: 4px;
  box-shadow: 0 1px 3px rgb(28 36 48 / 20%); overflow: hidden }
header, .parties { display: grid; grid-template-columns: 1fr 1fr; gap: 2rem; margin-bottom: 2rem }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 }
h2 { font-size: .8rem; font-weight: 400; color: var(--grey); margin: 0 }
dl { display: grid; grid-template-columns: auto 1fr; gap: .15rem 1.25rem; margin: 0 }
dt, small, summary, .notes { color: var(--grey) }
dd, p { margin: 0 }
.state { color: var(--warning); font-weight: 600 }
.mark { position: absolute; inset: 0; display: grid; place-items: center; pointer-events: none; color: var(--warning);
  opacity: .08; font-size: 9rem; font-weight: 700; transform: rotate(-52deg) }
.party strong { font-size: 1.05rem }
table { border-collapse: collapse; width: 100% }
th { font-size: .8rem; font-weight: 400; color: var(--grey); text-align: left; border-bottom: 2px solid var(--ink) }
th, td { padding: .5rem 0 .5rem .75rem; vertical-align: top }
th:first-child, td:first-child { padding-left: 0 }
tbody tr { border-bottom: 1px solid var(--rule) }
tbody th { background: var(--shade); color: var(--ink); font-weight: 600; border: 0; padding: .35rem .5rem }
tbody th:first-child { padding-left: .5rem }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
small { display: block; line-height: 1.4 }
details { font-size: .8rem }
summary { cursor: pointer }
code { display: block; padding: .5rem; background: var(--shade); font-size: .75rem; white-space: pre-wrap }
.totals { width: 26rem; max-width: 100%; margin: 1rem 0 2rem auto }
.totals tr { border: 0 }
.totals td { padding: .35rem 0 }
.totals .sum { font-weight: 600; border-top: 1px solid var(--ink) }
.totals .due { font-weight: 700; font-size: 1.2rem; color: var(--accent); border-top: 2px solid var(--accent) }
.notes { font-size: .8rem }
@page { size: A4; margin: 16mm }
@media (max-width: 40rem) { main { margin: 0; padding: 1rem } header, .parties { grid-template-columns: 1fr } }
@media print {
  body { background: #fff; font-size: 10pt }
  main { margin: 0; padding: 0; max-width: none; box-shadow: none; overflow: visible }
  .mark { position: fixed }
  details:not([open]) { display: none }
  tr, .totals, .notes { break-inside: avoid }
}
"""


def as_html(invoice: Invoice, language: Language = "en") -> str:
    """A page without scripts or anything from elsewhere; every value is escaped (RELIABILITY 51)."""
    form = form_of(invoice, language)
    return "\n".join(_page(form)).encode("utf-8", "replace").decode()  # a lone surrogate becomes a question mark


def _page(form: Form) -> Iterator[str]:
    title = escape(f"{form.title} {form.number}")
    yield "<!doctype html>"
    yield f'<html lang="{"zh-Hans" if form.language == "zh" else "en"}">'
    yield '<meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield '<meta name="referrer" content="no-referrer">'
    policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    yield f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    yield f"<title>{title}</title>"
    yield f"<style>{_STYLE}</style>"
    yield "<main>"
    if form.mark:
        yield f'<div class="mark" aria-hidden="true">{escape(form.mark)}</div>'
    yield from _head(form)
    yield from _lines(form)
    yield '<table class="totals">'
    yield from (_total(total) for total in form.totals)
    yield "</table>"
    yield '<div class="notes">'
    yield from (f"<p>{escape(note)}</p>" for note in form.notes)
    yield "</div>\n</main>\n</html>\n"


def _head(form: Form) -> Iterator[str]:
    state = f'<p class="state">{escape(form.mark)}</p><p>{escape(form.warning)}</p>' if form.mark else ""
    facts = "".join(f"<dt>{escape(label)}</dt><dd>{_given(value)}</dd>" for label, value in form.facts)
    yield f"<header><div><h1>{escape(form.title)}</h1>{state}</div><dl>{facts}</dl></header>"
    yield f'<section class="parties">{"".join(_party(party) for party in form.parties)}</section>'


def _party(party: Party) -> str:
    more = "".join(f"<p>{_given(line)}</p>" for line in party.more)
    return f'<div class="party"><h2>{escape(party.heading)}</h2><strong>{_given(party.name)}</strong>{more}</div>'


def _lines(form: Form) -> Iterator[str]:
    if not form.groups:
        yield f"<p>{escape(form.word('nothing'))}</p>"
        return
    numbers = "".join(
        f'<th class="n" scope="col">{escape(form.word(name))}</th>' for name in ("units", "unit_price", "amount")
    )
    yield f'<table>\n<thead><tr><th scope="col">{escape(form.word("what"))}</th>{numbers}</tr></thead>'
    for group in form.groups:
        yield f'<tbody>\n<tr><th colspan="4" scope="rowgroup">{escape(group.heading)}</th></tr>'
        yield from (_entry(entry, form.word("query")) for entry in group.entries)
        yield "</tbody>"
    yield "</table>"


def _entry(entry: Entry, summary: str) -> str:
    origin = " · ".join(part for part in (entry.id, entry.origin) if part)
    query = (
        f"<details><summary>{escape(summary)}</summary><code>{escape(entry.query)}</code></details>"
        if entry.query
        else ""
    )
    told = f"{_given(entry.description)}<small>{_given(entry.arithmetic)}</small><small>{_given(origin)}</small>{query}"
    numbers = "".join(f'<td class="n">{escape(text)}</td>' for text in (entry.units, entry.unit_price, entry.amount))
    return f'<tr id="{escape(entry.id)}"><td>{told}</td>{numbers}</tr>'


def _total(total: Total) -> str:
    detail = f"<small>{_given(total.detail)}</small>" if total.detail else ""
    kind = ("", ' class="sum"', ' class="due"')[total.level]
    return f'<tr{kind}><td>{_given(total.label)}{detail}</td><td class="n">{escape(total.amount)}</td></tr>'


def _given(text: str) -> str:
    """Text that somebody else may have chosen: escaped, and its direction of writing kept from what is around it."""
    return f"<bdi>{escape(text)}</bdi>"
