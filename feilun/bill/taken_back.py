"""What a credit note takes back: lines of an invoice, and with each its share of what was taken off, added or paid.

A discount follows the charges that it was taken off, a trial those that it made free, a tax the net amount, prepaid
credit the total. Each share is counted from all that was taken back so far, not from the last line alone: so notes for
one line after the other sum to the invoice in the end, to the coin, and never to more than it on the way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from feilun.bill.coupons import CHARGES
from feilun.bill.invoice import Invoice
from feilun.bill.rating import Line
from feilun.bill.wording import worded
from feilun.errors import AccessError, ConflictError, did_you_mean
from feilun.store.money import format_money, half_even, round_to_minor

_REDUCTIONS = ("trial", "discount")  # in this order: a discount is taken off what a trial leaves
_FOLLOWS = (*_REDUCTIONS, "tax", "credit")  # lines that are not taken back by themselves
_HISTORY = ("reason", "had_nano", "expires_at")  # words of used credit that are not true of credit given back


def note_lines(invoice: Invoice, earlier: Sequence[Invoice], chosen: Sequence[str] | None = None) -> list[Line]:
    """The lines of a credit note after ``earlier`` ones: lines in whole, and their shares of what follows them.

    Raises:
        AccessError: there is no such line.
        ConflictError: a line was taken back before, or more would be taken back than was invoiced.
    """
    own = {line.id: line for line in invoice.lines if line.kind not in _FOLLOWS}
    before = _by_line(earlier)
    done = {str(line.words["corrects"]): note.number for note in earlier for line in note.lines}
    if chosen is None:
        wanted = [name for name, line in own.items() if name not in before and line.amount_nano]
    else:
        wanted = [name for name in dict.fromkeys(chosen) if _is_own(name, invoice, own, done)]
    if not wanted:
        raise _nothing(invoice, earlier, chosen)
    taken = {name: own[name].amount_nano for name in own if name in before or name in wanted}
    shares = _reductions(invoice, own, taken)
    made = [_back(own[name], own[name].amount_nano, invoice.currency) for name in wanted]
    made += _following(invoice, shares, before)
    net = sum(line.amount_nano for line in invoice.lines if line.kind not in ("tax", "credit"))
    taxes = {
        line.id: _share(line.amount_nano, sum(taken.values()) + sum(shares.values()), net, invoice.currency)
        for line in invoice.lines
        if line.kind == "tax" and net
    }
    made += _following(invoice, taxes, before)
    back = -sum(line.amount_nano for line in made)
    so_far = back - sum(note.total_nano for note in earlier)
    if not 0 < back <= invoice.total_nano + sum(note.total_nano for note in earlier):
        raise _too_much(invoice, earlier, back)
    paid = {
        line.id: _share(line.amount_nano, so_far, invoice.total_nano, invoice.currency)
        for line in invoice.lines
        if line.kind == "credit"
    }
    return [*made, *_following(invoice, paid, before)]


def _by_line(notes: Sequence[Invoice]) -> dict[str, int]:
    """What notes took back of each line, with the sign of that line."""
    sums: dict[str, int] = {}
    for note in notes:
        for line in note.lines:
            name = str(line.words["corrects"])
            sums[name] = sums.get(name, 0) - line.amount_nano
    return sums


def _is_own(name: str, invoice: Invoice, own: Mapping[str, Line], done: Mapping[str, str]) -> bool:
    """Whether a line that was named is taken back by itself; what a charge was reduced by comes with the charge."""
    if name not in own:
        if any(line.id == name and line.kind in _REDUCTIONS for line in invoice.lines):
            return False
        hint = did_you_mean(name, own) or f"its lines are {', '.join(list(own)[:10])}"
        raise AccessError(f"there is no line '{name}' to take back", status=404, hint=hint, code="not-found")
    if name in done:
        raise ConflictError(f"the line {name} was taken back before by {done[name]}", code="credit-note-refused")
    return True


def _reductions(invoice: Invoice, own: Mapping[str, Line], taken: Mapping[str, int]) -> dict[str, int]:
    """By trial and discount, how much of it goes with the lines ``taken``, of this note and of earlier ones."""
    shares: dict[str, int] = {}
    whole = all(name in taken or not line.amount_nano for name, line in own.items())
    for kind in _REDUCTIONS:
        for line in (each for each in invoice.lines if each.kind == kind):
            of = [each for each in invoice.lines if _reduces(line, each)]
            base = sum(each.amount_nano for each in of)
            part = sum(taken.get(each.id, 0) + shares.get(each.id, 0) for each in of)
            if whole or base > 0:
                amount = line.amount_nano if whole else _share(line.amount_nano, part, base, invoice.currency)
                shares[line.id] = amount
    return shares


def _reduces(line: Line, other: Line) -> bool:
    """Whether a trial or a discount was taken off another line."""
    if line.period != other.period:
        return False
    if line.kind == "discount":
        return other.kind in CHARGES
    if "part" in line.words:
        return other.kind in ("fee", "unused") and other.words.get("plan") == line.words.get("plan")
    return other.kind not in _FOLLOWS and bool(other.words.get("trial"))


def _share(amount: int, part: int, base: int, currency: str) -> int:
    return round_to_minor(half_even(amount * part, base), currency) if base > 0 else 0


def _following(invoice: Invoice, shares: Mapping[str, int], before: Mapping[str, int]) -> Iterator[Line]:
    for line in invoice.lines:
        amount = shares.get(line.id, 0) - before.get(line.id, 0)
        if line.id in shares and amount:
            yield _back(line, amount, invoice.currency)


def _back(line: Line, amount: int, currency: str) -> Line:
    words = {name: value for name, value in line.words.items() if line.kind != "credit" or name not in _HISTORY}
    taken = replace(
        line,
        units=-line.units,
        exact_nano=-amount,
        amount_nano=-amount,
        query=None,
        words={**words, "corrects": line.id},
    )
    return worded(taken, currency)


def _nothing(invoice: Invoice, earlier: Sequence[Invoice], chosen: Sequence[str] | None) -> ConflictError:
    if chosen:
        return ConflictError(
            "a trial or a discount is not taken back by itself",
            where=", ".join(chosen)[:200],
            hint="name the lines that it was taken off: their shares of it come with them",
            code="credit-note-refused",
        )
    numbers = ", ".join(note.number for note in earlier)
    what = f"was taken back before by {numbers}" if numbers else "charges nothing that could be taken back"
    return ConflictError(f"the invoice {invoice.number} {what}", where=invoice.number, code="credit-note-refused")


def _too_much(invoice: Invoice, earlier: Sequence[Invoice], back: int) -> ConflictError:
    left = invoice.total_nano + sum(note.total_nano for note in earlier)
    return ConflictError(
        f"a credit note of {format_money(back, invoice.currency)} cannot be made: "
        f"{format_money(max(0, left), invoice.currency)} is left of the invoice",
        where=invoice.number,
        hint="name with them the lines that were given back on the invoice itself, or take it back as a whole",
        code="credit-note-refused",
    )
