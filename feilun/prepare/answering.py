"""Answers that stand in a text, as SQuAD has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from feilun.prepare.cells import Cells, whole
from feilun.prepare.repairing import Moved

Answer = dict[str, Any]
FORMS = '{"text": ["Paris"], "answer_start": [17]}, [{"text": "Paris", "start": 17}] or the text of the answer alone'


def read(cells: Cells, column: str, originals: Sequence[str]) -> list[list[Answer]]:
    """Each row's answers, in characters of the original text that they stand in; none where the cell is empty.

    An answer without a start is the first place where its text stands.

    Raises:
        DataError: a cell holds no answers, or one that does not stand where it should.
    """
    found = []
    for row, cell in enumerate(cells.values(column)):
        answers: list[Answer] = []
        for text, start in _pairs(cell, cells, row, column):
            at = originals[row].find(text) if start is None else start
            if not text.strip() or at < 0 or originals[row][at : at + len(text)] != text:
                what = f"the answer '{text[:60]}' does not stand in the text"
                place = "" if start is None else f" at character {start}"
                raise cells.wrong(what + place, row, column, f"answers are {FORMS}")
            answers.append({"start": at, "text": text})
        found.append(answers)
    return found


def moved(answers: Sequence[Answer], text: Moved) -> list[Answer] | None:
    """Answers in the original as those in the repaired text; None where repair left nothing of one."""
    found = {}
    for answer in answers:
        place = text.place(answer["start"], answer["start"] + len(answer["text"]))
        if place is None:
            return None
        found[place] = {"start": place[0], "text": text.text[slice(*place)]}
    return [found[place] for place in sorted(found)]


def _pairs(cell: Any, cells: Cells, row: int, column: str) -> list[tuple[str, int | None]]:
    if cell is None:
        return []
    if isinstance(cell, str):
        return [(cell, None)]
    if isinstance(cell, dict):
        texts, starts = cell.get("text") or [], cell.get("answer_start") or []
        if isinstance(texts, list) and isinstance(starts, list) and len(texts) == len(starts):
            cell = [{"text": text, "start": start} for text, start in zip(texts, starts, strict=True)]
        else:
            cell = [{"text": texts, "start": cell.get("start", cell.get("answer_start"))}]
    try:
        return [_pair(one) for one in cell]
    except (TypeError, ValueError, AttributeError) as error:
        raise cells.wrong("the cell holds no answers", row, column, f"answers are {FORMS}") from error


def _pair(one: Any) -> tuple[str, int | None]:
    if isinstance(one, str):
        return one, None
    text, start = one.get("text"), one.get("start", one.get("answer_start"))
    if not isinstance(text, str):
        raise TypeError("an answer is text")
    return text, None if start is None else whole(start)
