"""An invoice on paper: A4, page numbers, headings on every page, and the same bytes for the same invoice."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

from feilun.bill import fonts
from feilun.bill.form import Entry, Form, Party, form_of
from feilun.bill.invoice import Invoice
from feilun.bill.wording import Language

INK, GREY, RULE, SHADE, ACCENT, WARNING = "#1c2430", "#5a6675", "#d8dde4", "#f4f6f8", "#0b5d57", "#a8321f"
MARGIN = 45.0  # points
PADDING = 6.0  # that reportlab puts around what is on a page
WIDTHS = (252.0, 60.0, 98.0, 95.0)  # what, units, unit price, amount; together the width between the margins
SIZES = {"title": 22.0, "name": 10.5, "text": 9.0, "small": 7.5, "code": 6.5, "due": 11.5}
MOST = {"line": 900, "name": 300, "address": 600}  # characters of one text, so that each fits on a page
SHORT = 14  # characters that surely fit into a column of numbers on one line


def as_pdf(invoice: Invoice, language: Language = "en") -> bytes:
    """The invoice as a PDF of its own; nothing in it depends on the time or the machine.

    Names and descriptions that would fill a page by themselves end in an ellipsis; the other forms have all of them.
    """
    from reportlab.lib.pagesizes import A4
    from reportlab.platypus import SimpleDocTemplate

    fonts.register()
    form = form_of(invoice, language)
    file = io.BytesIO()
    document = SimpleDocTemplate(
        file,
        pagesize=A4,
        leftMargin=MARGIN - PADDING,
        rightMargin=MARGIN - PADDING,
        topMargin=MARGIN,
        bottomMargin=MARGIN + 12,
        invariant=1,
        title=f"{form.title} {form.number}",
        author="".join(char for char in invoice.seller.get("name", "") if char.isprintable()),
        lang=language,
    )
    document.build(list(_story(form)), canvasmaker=_Canvases(form))
    return file.getvalue()


class _Canvases:
    """Makes reportlab's canvas, which draws each page's foot when it knows how many pages there are."""

    def __init__(self, form: Form) -> None:
        self.form = form

    def __call__(self, *args: Any, **settings: Any) -> Any:
        """A canvas that keeps its pages until it is saved."""
        from reportlab.pdfgen.canvas import Canvas

        canvas: Any = Canvas(*args, **settings)
        show, save = canvas.showPage, canvas.save
        pages: list[dict[str, Any]] = []

        def keep() -> None:
            pages.append(dict(canvas.__dict__))
            canvas._startPage()

        def finish() -> None:
            for number, page in enumerate(pages, start=1):
                canvas.__dict__.update(page)
                self._foot(canvas, number, len(pages))
                self._mark(canvas)
                show()
            save()

        canvas.showPage, canvas.save = keep, finish
        return canvas

    def _foot(self, canvas: Any, page: int, pages: int) -> None:
        width, form = canvas._pagesize[0], self.form
        canvas.setStrokeColor(RULE)
        canvas.setLineWidth(0.5)
        canvas.line(MARGIN, MARGIN + 6, width - MARGIN, MARGIN + 6)
        sides = ((f"{form.title} {form.number}", "left"), (form.sentence("page", page=page, pages=pages), "right"))
        for text, side in sides:
            paragraph = _paragraph(text, "small", GREY, side)
            paragraph.wrap(width - 2 * MARGIN, MARGIN)
            paragraph.drawOn(canvas, MARGIN, MARGIN - 8)

    def _mark(self, canvas: Any) -> None:
        """Across every page of what was not issued, so that no page of it is taken for an invoice."""
        ((text, font),) = fonts.runs(self.form.mark) or [("", "")]
        width, height = canvas._pagesize
        canvas.saveState()
        canvas.setFillColor(WARNING)
        canvas.setFillAlpha(0.10)
        canvas.setFont(font or "Helvetica-Bold", 96)
        canvas.translate(width / 2, height / 2)
        canvas.rotate(52)
        canvas.drawCentredString(0, -34, text)
        canvas.restoreState()


def _story(form: Form) -> Iterator[Any]:
    from reportlab.platypus import KeepTogether, PageBreak, Spacer

    yield _head(form)
    yield Spacer(0, 16)
    yield _parties(form.parties)
    yield Spacer(0, 18)
    if form.groups:
        yield _lines(form)
    else:
        yield _paragraph(form.word("nothing"), "text")
    yield Spacer(0, 8)
    yield _totals(form)
    yield Spacer(0, 16)
    notes = [*form.notes, *([form.word("missing")] if _has_missing(form) else [])]
    yield KeepTogether([_paragraph(note, "small", GREY) for note in notes])
    counted = [entry for group in form.groups for entry in group.entries if entry.query]
    if counted:
        yield PageBreak()
        yield _paragraph(form.word("queries"), "due", bold=True)
        yield Spacer(0, 4)
        yield _paragraph(form.word("queries_of"), "small", GREY)
        yield from _queries(counted)


def _head(form: Form) -> Any:
    """Title and mark on the left, number, dates, period and customer on the right."""
    left = [_paragraph(form.title, "title", bold=True)]
    if form.mark:
        left += [_paragraph(form.mark, "due", WARNING, bold=True), _paragraph(form.warning, "small", GREY)]
    facts = [
        [_paragraph(label, "text", GREY), _paragraph(_cut(value, MOST["address"]), "text")]
        for label, value in form.facts
    ]
    right = _table(
        facts, (95.0, 160.0), [("BOTTOMPADDING", (0, 0), (-1, -1), 1.5), ("TOPPADDING", (0, 0), (-1, -1), 1)]
    )
    return _table([[left, right]], (sum(WIDTHS) - 255.0, 255.0), [])


def _parties(parties: tuple[Party, ...]) -> Any:
    cells = [
        [
            _paragraph(party.heading, "small", GREY),
            _paragraph(_cut(party.name, MOST["name"]), "name", bold=True),
            *(_paragraph(line, "text") for line in _within(party.more, MOST["address"])),
        ]
        for party in parties
    ]
    half = sum(WIDTHS) / 2
    return _table([[*cells, *([""] * (2 - len(cells)))]], (half, half), [("RIGHTPADDING", (0, 0), (-1, -1), 12)])


def _lines(form: Form) -> Any:
    headings = [_paragraph(form.word("what"), "small", GREY)]
    headings += [_paragraph(form.word(name), "small", GREY, "right") for name in ("units", "unit_price", "amount")]
    rows: list[list[Any]] = [headings]
    style: list[tuple[Any, ...]] = [
        ("LINEBELOW", (0, 0), (-1, 0), 1, INK),
        ("TOPPADDING", (0, 0), (-1, -1), 4),
        ("BOTTOMPADDING", (0, 0), (-1, -1), 5),
        ("ALIGN", (1, 0), (-1, -1), "RIGHT"),
        ("LEFTPADDING", (1, 0), (-1, -1), 6),
    ]
    for group in form.groups:
        style += [("SPAN", (0, len(rows)), (-1, len(rows))), ("BACKGROUND", (0, len(rows)), (-1, len(rows)), SHADE)]
        style += [("LEFTPADDING", (0, len(rows)), (0, len(rows)), 4), ("NOSPLIT", (0, len(rows)), (0, len(rows) + 1))]
        rows.append([_paragraph(group.heading, "small", bold=True), "", "", ""])
        for entry in group.entries:
            style.append(("LINEBELOW", (0, len(rows)), (-1, len(rows)), 0.5, RULE))
            rows.append([_what(entry), _number(entry.units), _number(entry.unit_price), _number(entry.amount)])
    return _table(rows, WIDTHS, style, repeat=1)


def _what(entry: Entry) -> list[Any]:
    origin = " · ".join(part for part in (entry.id, entry.origin) if part)
    return [
        _paragraph(_cut(entry.description, MOST["line"]), "text"),
        _paragraph(_cut(entry.arithmetic, MOST["line"]), "small", GREY),
        _paragraph(_cut(origin, MOST["line"]), "code", GREY),
    ]


def _within(lines: tuple[str, ...], most: int) -> Iterator[str]:
    """As many of the lines as have ``most`` characters in all; a line counts as no fewer than forty."""
    for line in lines:
        if most > 0:
            yield _cut(line, most)
        most -= max(len(line), 40)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _number(text: str) -> Any:
    """A short number is set by the table itself, which is several times as fast as a paragraph."""
    return text if len(text) <= SHORT and text.isascii() else _paragraph(text, "text", side="right")


def _totals(form: Form) -> Any:
    rows: list[list[Any]] = []
    style: list[tuple[Any, ...]] = [("TOPPADDING", (0, 0), (-1, -1), 3), ("BOTTOMPADDING", (0, 0), (-1, -1), 4)]
    for row, total in enumerate(form.totals):
        size, bold = ("due" if total.level == 2 else "text"), total.level > 0
        color = ACCENT if total.level == 2 else INK
        label = [_paragraph(_cut(total.label, MOST["line"]), size, color, bold=bold)]
        if total.detail:
            label.append(_paragraph(_cut(total.detail, MOST["line"]), "small", GREY))
        rows.append([label, _paragraph(total.amount, size, color, "right", bold=bold)])
        if total.level:
            style.append(("LINEABOVE", (0, row), (-1, row), 1 if total.level == 2 else 0.5, color))
    return _table(rows, (190.0, 125.0), style, align="RIGHT")


def _queries(entries: list[Entry]) -> Iterator[Any]:
    from reportlab.platypus import Spacer

    for entry in entries:
        yield Spacer(0, 7)
        yield _paragraph(_cut(f"{entry.id}  {entry.description}", MOST["line"]), "small")
        yield _paragraph(entry.query, "code", GREY, face="Courier")


def _table(
    rows: list[list[Any]],
    widths: tuple[float, ...],
    style: list[tuple[Any, ...]],
    *,
    repeat: int = 0,
    align: str = "LEFT",
) -> Any:
    """A table without padding at its sides; it goes over pages between its rows."""
    from reportlab.platypus import LongTable, TableStyle

    plain: list[tuple[Any, ...]] = [
        ("VALIGN", (0, 0), (-1, -1), "TOP"),
        ("LEFTPADDING", (0, 0), (-1, -1), 0),
        ("RIGHTPADDING", (0, 0), (-1, -1), 0),
        ("FONT", (0, 0), (-1, -1), "Helvetica", SIZES["text"], SIZES["text"] * 1.35),
        ("TEXTCOLOR", (0, 0), (-1, -1), INK),
    ]
    return LongTable(rows, colWidths=widths, style=TableStyle([*plain, *style]), repeatRows=repeat, hAlign=align)


def _paragraph(
    text: str, size: str, color: str = INK, side: str = "left", *, bold: bool = False, face: str = "Helvetica"
) -> Any:
    """Text that wraps: at spaces, within words that are too long, and between Chinese characters."""
    from reportlab.lib.styles import ParagraphStyle
    from reportlab.platypus import Paragraph

    style = ParagraphStyle(
        "",
        fontName=f"{face}-Bold" if bold else face,
        fontSize=SIZES[size],
        leading=SIZES[size] * 1.35,
        textColor=color,
        alignment=2 if side == "right" else 0,
        wordWrap="CJK" if fonts.is_wide(text) else None,
        splitLongWords=1,
    )
    return Paragraph(fonts.markup(text), style)


def _has_missing(form: Form) -> bool:
    told = [part for fact in form.facts for part in fact]
    told += [part for party in form.parties for part in (party.name, *party.more)]
    told += [entry.description for group in form.groups for entry in group.entries]
    told += [text for total in form.totals for text in (total.label, total.detail)]
    return any(fonts.lacks(text) for text in told)
