"""Names in texts: from records of characters, or from words with a tag each."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

from feilun.datasets.words import BIO
from feilun.prepare.cells import Cells, whole
from feilun.prepare.repairing import Moved

Span = dict[str, Any]
RECORD = '{"start": 0, "end": 5, "label": "place"} or [0, 5, "place"], in characters; end is the first behind it'
_STARTS = ("start", "start_offset", "begin")
_ENDS = ("end", "end_offset", "stop")
_LABELS = ("label", "type", "tag", "entity", "entity_group")
# Chinese and Japanese, which put no space between words
_UNSPACED = re.compile(
    r"[\u2e80-\u303f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]"
)


def read(cells: Cells, column: str, originals: Sequence[str]) -> list[list[Span] | None]:
    """Each row's spans as they were written, sorted, in characters of its original text; None where the cell is empty.

    Raises:
        DataError: a cell holds no spans, or one that is not within the text, overlaps another one, or says another text
            than is there.
    """
    found: list[list[Span] | None] = []
    for row, cell in enumerate(cells.values(column)):
        if cell is None:
            found.append(None)
            continue
        if not isinstance(cell, list):
            raise cells.wrong("the cell is not a list of spans", row, column, f"each is {RECORD}")
        spans = [_span(one, cells, row, column) for one in cell]
        for span, one in zip(spans, cell, strict=True):
            if what := _problem(span, one, originals[row]):
                raise cells.wrong(what, row, column, f"a span is {RECORD}")
        unique = {(span["start"], span["end"], span["label"]): span for span in spans}
        found.append([unique[key] for key in sorted(unique)])
        for (start, end, _), (second, its_end, _) in itertools.pairwise(sorted(unique)):
            if second < end:
                what = f"the spans {start} to {end} and {second} to {its_end} overlap"
                raise cells.wrong(what, row, column, "a character has one name at the most: leave one of them out")
    return found


def moved(spans: Sequence[Span], text: Moved) -> list[Span] | None:
    """Spans of the original as those of the repaired text; None where repair left nothing of one."""
    places = [text.place(span["start"], span["end"]) for span in spans]
    if None in places:
        return None
    return [
        {"start": place[0], "end": place[1], "label": span["label"]}
        for place, span in zip(places, spans, strict=True)
        if place is not None
    ]


def from_words(
    cells: Cells, tokens: str, tags: str, join: str | None
) -> tuple[list[str | None], list[list[Span] | None]]:
    """Texts and their spans from lists of words and of BIO, IOB1, IOBES or BILOU tags.

    Args:
        cells: the rows.
        tokens: the column of words.
        tags: the column of tags.
        join: what stands between words; by default a space, but none beside Chinese and Japanese characters.

    Raises:
        DataError: a row has more words than tags or fewer, or what is no tag.
    """
    texts: list[str | None] = []
    found: list[list[Span] | None] = []
    known: dict[str, re.Match[str] | None] = {}
    for row, (words, marks) in enumerate(zip(cells.values(tokens), cells.values(tags), strict=True)):
        if not words or marks is None:
            texts.append(None)
            found.append(None)
            continue
        if not isinstance(words, list) or not isinstance(marks, list) or len(words) != len(marks):
            counts = [len(x) if isinstance(x, list) else "no list of" for x in (words, marks)]
            raise cells.wrong(f"{counts[0]} words have {counts[1]} tags", row, tags)
        if any(word is None or isinstance(word, list | dict) for word in words):
            raise cells.wrong("a word is text, and not a list, a record or nothing", row, tokens)
        text, starts = joined([str(word) for word in words], join)
        texts.append(text)
        spans: list[Span] = []
        before: re.Match[str] | None = None
        for place, (word, mark) in enumerate(zip(words, map(str, marks), strict=True)):
            if mark not in known:  # a million words have a hundred tags
                known[mark] = BIO.fullmatch(mark)
            if (tag := known[mark]) is None:
                hint = "tags are O, B-place, I-place and so on"
                raise cells.wrong(f"'{mark[:80]}' of word {place + 1} is not a tag", row, tags, hint)
            end = starts[place] + len(str(word))
            if tag[1] and _goes_on(before, tag):
                spans[-1]["end"] = end
            elif tag[1]:
                spans.append({"start": starts[place], "end": end, "label": tag[2]})
            before = tag
        found.append(spans)
    return texts, found


def joined(words: Sequence[str], join: str | None) -> tuple[str, list[int]]:
    """A text of words, and where each begins.

    >>> joined(["In", "Paris", "，", "１９９８", "年"], None)
    ('In Paris，１９９８年', [0, 3, 8, 9, 13])
    """
    text, starts = "", []
    for word in words:
        bare = not text or _UNSPACED.match(text[-1]) or _UNSPACED.match(word)
        text += join if join is not None and text else "" if bare else " "
        starts.append(len(text))
        text += word
    return text, starts


def _goes_on(before: re.Match[str] | None, tag: re.Match[str]) -> bool:
    """Whether a tag continues the name of the word before: as conlleval reads I- behind the end of another name."""
    inside = tag[1] in "IELM" and before is not None and before[1] is not None
    return inside and before is not None and before[2] == tag[2] and before[1] not in "ELSU"


def _span(one: Any, cells: Cells, row: int, column: str) -> Span:
    parts = one
    if isinstance(one, dict):
        parts = [next((one[n] for n in names if one.get(n) is not None), "") for names in (_STARTS, _ENDS, _LABELS)]
    try:
        if not isinstance(parts, list):
            raise TypeError("text would be three of its characters")
        start, end, label = parts
        if isinstance(label, list | dict):
            raise TypeError("a label is text")
        return {"start": whole(start), "end": whole(end), "label": "" if label is None else str(label).strip()}
    except (TypeError, ValueError) as error:
        raise cells.wrong(f"'{str(one)[:80]}' is not a span", row, column, f"a span is {RECORD}") from error


def _problem(span: Span, one: Any, text: str) -> str | None:
    start, end = span["start"], span["end"]
    if not 0 <= start < end <= len(text):
        return f"the span {start} to {end} is not within the text of {len(text)} characters"
    if not span["label"]:
        return f"the span {start} to {end} has no label"
    says = one.get("text") if isinstance(one, dict) else None
    if says is not None and str(says) != text[start:end]:
        return f"the span {start} to {end} is '{text[start:end][:40]}' in the text, and not '{str(says)[:40]}'"
    if not text[start:end].strip():
        return f"the span {start} to {end} holds nothing but white space"
    return None
