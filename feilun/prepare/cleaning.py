"""From a source's columns to repaired text, the truth about it, stable ids and contributors."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import polars as pl

from feilun import datasets
from feilun.datasets.positions import key, together
from feilun.errors import DataError
from feilun.prepare import answering, conversations, labelling, spans, times
from feilun.prepare.card import Card
from feilun.prepare.cells import Cells
from feilun.prepare.repairing import Moved, repair
from feilun.prepare.settings import ContributorColumn, PrepareSettings

VOTED = ("label", "labels", "spans", "answers")  # what rows of one text may disagree about
_SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
_SPLITS |= dict.fromkeys(("dev", "development", "val", "valid", "validation"), "")


def clean(cells: Cells, settings: PrepareSettings, card: Card, number: int = 0) -> pl.DataFrame:
    """Rows with what ``settings`` name; empty, too short and too long ones left out.

    Args:
        cells: the rows of one file.
        settings: with every column named, see ``columns.resolve``.
        card: where rows that are left out are counted.
        number: of the file among the source's: ids of the source's own count in one file only.

    Returns:
        N rows with id, text, contributor, domain and the columns of ``TRUTH`` that were named; ``split`` and ``time``
        where a column says it; and ``key``, which decides the split, ``same``, which two rows share that ask the same,
        and ``truth``, which two rows share that answer the same.

    Raises:
        DataError: a column is missing, a cell holds what it should not (row and column are named), an id stands twice.
    """
    where = cells.part.where
    raw, found = _read(cells, settings)
    given = {name: pl.Series(values, dtype=datasets.TRUTH[name]) for name, values in found.items()}
    texts = [None if text is None else _repaired(text, found) for text in raw]
    frame = pl.DataFrame(
        {
            "row": pl.Series(range(1, cells.rows + 1), dtype=pl.Int64),
            "raw": pl.Series(raw, dtype=pl.String),
            "text": pl.Series(texts, dtype=pl.String),
            **given,
            "source_id": _source_ids(cells, settings, number),
            "contributor": _contributors(cells, settings.contributor),
            **({datasets.TIME: times.read(cells, settings.time)} if settings.time is not None else {}),
            **({"split": _splits(cells, settings.split)} if isinstance(settings.split, str) else {}),
        }
    )
    frame = _filtered(frame, settings, card)
    card.repaired += int((frame["raw"] != frame["text"]).sum())
    if "label" in frame.columns:
        frame = labelling.one(frame, settings, where)
    return _known(frame, settings.domain)


def row_id(domain: str, source_id: str | None, text: str) -> str:
    """A row's name, from its domain and the source's id for it, or its text where there is none; 32 hex digits."""
    tail = f"text\0{text}" if source_id is None else f"id\0{source_id}"
    return hashlib.sha256(f"{domain}\0{tail}".encode()).hexdigest()[:32]


def _read(cells: Cells, settings: PrepareSettings) -> tuple[list[str | None], dict[str, list[Any]]]:
    """Texts as they came, and the truth about them; of spans and answers, as the texts are after repair."""
    found: dict[str, list[Any]] = {}
    if settings.messages or settings.chosen or settings.answer:
        found |= _spoken(cells, settings)
        raw = [None if spoken is None else conversations.question(spoken) for spoken in found["messages"]]
    elif settings.tags:
        raw, marked = spans.from_words(cells, str(settings.tokens), settings.tags, settings.join)
        found["spans"] = labelling.spans(marked, settings, cells, words=cells.tagged)
    else:
        raw = cells.texts(str(settings.text)).to_list()
    if settings.spans:
        marked = spans.read(cells, settings.spans, [text or "" for text in raw])
        found["spans"] = labelling.spans(marked, settings, cells, words=False)
    if "spans" in found:
        found["spans"] = [
            None if marks is None or text is None else spans.moved(marks, Moved(text)) if marks else []
            for marks, text in zip(found["spans"], raw, strict=True)
        ]
    if settings.other:
        found |= _others(cells, settings)
    if settings.label:
        found["label"] = cells.texts(settings.label).str.strip_chars().to_list()
    if settings.labels:
        found["labels"] = labelling.many(cells, settings)
    if settings.score:
        found["score"] = labelling.scores(cells, settings.score)
    return raw, found


def _spoken(cells: Cells, settings: PrepareSettings) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for name in ("chosen", "rejected"):
        if column := getattr(settings, name):
            found[name], found["messages"] = conversations.answers(cells, column)
    if settings.messages:
        found["messages"] = conversations.messages(cells, settings.messages, answered=not settings.chosen)
    elif settings.text:
        found["messages"] = conversations.asked(cells, settings.text, settings.system)
    if all(spoken is None for spoken in found["messages"]) and settings.chosen:
        hint = 'name the column with the question: text = "prompt"; or write conversations that begin with it'
        raise DataError("there is no question before the answers", where=cells.part.where, hint=hint)
    if settings.answer:
        said, _ = conversations.answers(cells, settings.answer)
        found["messages"] = [
            None if not (before and answer) else [*before, {"role": "assistant", "content": answer}]
            for before, answer in zip(found["messages"], said, strict=True)
        ]
    return found


def _others(cells: Cells, settings: PrepareSettings) -> dict[str, list[Any]]:
    raw = cells.texts(str(settings.other)).to_list()
    if not settings.answers:
        found = {"other": raw}
        if settings.rejected and not settings.chosen:
            found["rejected"] = cells.texts(settings.rejected).to_list()
        return {name: [None if text is None else repair(text) for text in texts] for name, texts in found.items()}
    answers = answering.read(cells, settings.answers, [text or "" for text in raw])
    moved = [Moved(text or "") for text in raw]
    return {
        "other": [text.text for text in moved],
        "answers": [answering.moved(given, text) for given, text in zip(answers, moved, strict=True)],
    }


def _repaired(text: str, found: dict[str, list[Any]]) -> str:
    return text if "messages" in found else repair(text)  # a conversation was repaired line by line


def _filtered(frame: pl.DataFrame, settings: PrepareSettings, card: Card) -> pl.DataFrame:
    for name in ("text", "other"):
        if name in frame.columns:
            there = pl.col(name).is_not_null() & (pl.col(name) != "")
            # a conversation without text lacks its answer, or all of it
            why = "without_text" if "messages" not in frame.columns else "without_label"
            frame = card.filtered(why, frame, frame.filter(there))
    for name in [name for name in datasets.TRUTH if name in frame.columns]:
        there = pl.col(name).is_not_null()
        if frame[name].dtype == pl.String:
            there &= pl.col(name) != ""
        frame = card.filtered("without_label", frame, frame.filter(there))
    if "rejected" in frame.columns:
        better = "chosen" if "chosen" in frame.columns else "other"
        frame = card.filtered("same_answers", frame, frame.filter(pl.col(better) != pl.col("rejected")))
    length = pl.col("text").str.len_chars()
    frame = card.filtered("too_short", frame, frame.filter(length >= settings.min_characters))
    return card.filtered("too_long", frame, frame.filter(length <= settings.max_characters))


def _known(frame: pl.DataFrame, domain: str) -> pl.DataFrame:
    """The rows with id, contributor, domain, and what they share with their like."""
    asked = [key(text) for text in frame["text"]]
    if "messages" in frame.columns:
        asked = [_prompt(spoken, "chosen" in frame.columns) for spoken in frame["messages"]]
    same = asked
    for name in ("other", "chosen", "rejected"):
        if name in frame.columns:
            same = [f"{a}\0{key(b)}" for a, b in zip(same, frame[name], strict=True)]
    if "messages" in frame.columns and "chosen" not in frame.columns:
        same = [f"{a}\0{key(m[-1]['content'])}" for a, m in zip(same, frame["messages"], strict=True)]
    voted = [name for name in VOTED if name in frame.columns]
    truth = [json.dumps(row, ensure_ascii=False, sort_keys=True) for row in frame.select(voted).rows()]
    ids = [row_id(domain, source_id, text) for source_id, text in zip(frame["source_id"], same, strict=True)]
    frame = frame.with_columns(
        id=pl.Series(ids, dtype=pl.String),
        key=pl.Series(together(frame), dtype=pl.String),
        same=pl.Series(same, dtype=pl.String),
        truth=pl.Series(truth if voted else [""] * frame.height, dtype=pl.String),
        domain=pl.lit(domain),
    )
    owner = pl.when(pl.col("contributor").fill_null("") == "").then("id").otherwise("contributor")
    return frame.with_columns(contributor=pl.lit(domain + ":") + owner)


def _prompt(spoken: list[dict[str, str]], whole: bool) -> str:
    before = spoken if whole else spoken[:-1]
    return key("\n".join(message["content"] for message in before if message["role"] != "system"))


def _source_ids(cells: Cells, settings: PrepareSettings, number: int) -> pl.Series:
    if settings.id is None:
        return pl.Series([None] * cells.rows, dtype=pl.String)
    ids = cells.texts(settings.id)
    twice = (ids.is_duplicated() & ids.is_not_null()).arg_true()
    if len(twice):
        first = int(twice[0])
        hint = "leave 'id' out to use the text"
        raise cells.wrong(f"the id '{ids[first]}' stands in several rows", first, settings.id, hint)
    return ids if number == 0 else f"{number}\0" + ids


def _contributors(cells: Cells, setting: str | ContributorColumn | None) -> pl.Series:
    if setting is None:
        return pl.Series([None] * cells.rows, dtype=pl.String)
    chosen = ContributorColumn(column=setting) if isinstance(setting, str) else setting
    values = cells.texts(chosen.column).str.strip_chars()
    return values.str.split(chosen.until).list.first() if chosen.until else values


def _splits(cells: Cells, column: str) -> pl.Series:
    """train, test, or "" for rows that are for development."""
    names = cells.texts(column).fill_null("").str.strip_chars().str.to_lowercase()
    for row, name in enumerate(names):
        if name not in _SPLITS:
            hint = f"a split is one of {', '.join(_SPLITS)}"
            raise cells.wrong(f"'{name[:80]}' is not a split", row, column, hint)
    return names.replace_strict(_SPLITS, return_dtype=pl.String)
