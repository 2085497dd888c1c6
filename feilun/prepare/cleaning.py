"""From a source's columns to repaired text, named labels, stable ids and contributors."""

from __future__ import annotations

import hashlib
import html
import re
import unicodedata

import polars as pl

from feilun.datasets import column
from feilun.datasets.positions import key
from feilun.errors import DataError, did_you_mean
from feilun.prepare.card import Card
from feilun.prepare.settings import Band, ContributorColumn, PrepareSettings

ESCAPED = 3  # how often a text may have been escaped: scraped ones often were twice
_SPACE = re.compile(r"\s+")
# Control characters but tab and line ends; byte-order marks, soft hyphens, zero-width spaces and direction overrides.
# Joiners (U+200C, U+200D) stay: Persian and emoji need them.
_HIDDEN = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u200b\u202a-\u202e\u2060\u2066-\u2069\ufeff]")


def repair(text: str) -> str:
    """HTML entities resolved, Unicode composed (NFC), hidden characters dropped, white space made one space.

    >>> repair(" caf&eacute;\\u200b  &amp;amp; bar\\n")
    'café & bar'
    """
    text = _HIDDEN.sub("", text)
    for _ in range(ESCAPED):
        if "&" in text:
            text = _HIDDEN.sub("", html.unescape(text))
    return _SPACE.sub(" ", text if text.isascii() else unicodedata.normalize("NFC", text)).strip()


def clean(raw: pl.DataFrame, settings: PrepareSettings, card: Card, where: str) -> pl.DataFrame:
    """Rows with id, text, label, contributor, domain and the text's key; empty, too short and too long ones left out.

    Raises:
        DataError: a column is missing, a label is unknown, a source id stands twice.
    """
    texts = column(raw, settings.text or "text", where)
    frame = pl.DataFrame(
        {
            "row": pl.Series(range(1, raw.height + 1), dtype=pl.Int64),
            "raw": texts,
            "text": pl.Series([repair(text) for text in texts.fill_null("")], dtype=pl.String),
            "label": column(raw, settings.label or "label", where).str.strip_chars(),
            "source_id": _source_ids(raw, settings, where),
            "contributor": _contributors(raw, settings.contributor, where),
        }
    )
    card.repaired = int((frame["raw"] != frame["text"]).sum())
    frame = card.filtered("without_text", frame, frame.filter(pl.col("text") != ""))
    labelled = frame.filter(pl.col("label").is_not_null() & (pl.col("label") != ""))
    frame = card.filtered("without_label", frame, labelled)
    frame = _named(frame, settings, where)
    length = pl.col("text").str.len_chars()
    frame = card.filtered("too_short", frame, frame.filter(length >= settings.min_characters))
    frame = card.filtered("too_long", frame, frame.filter(length <= settings.max_characters))
    keys = [key(text) for text in frame["text"]]
    ids = [row_id(settings.domain, source_id, text) for source_id, text in zip(frame["source_id"], keys, strict=True)]
    frame = frame.with_columns(
        id=pl.Series(ids, dtype=pl.String), key=pl.Series(keys, dtype=pl.String), domain=pl.lit(settings.domain)
    )
    owner = pl.when(pl.col("contributor").fill_null("") == "").then("id").otherwise("contributor")
    return frame.with_columns(contributor=pl.lit(settings.domain + ":") + owner)


def row_id(domain: str, source_id: str | None, text: str) -> str:
    """A row's name, from its domain and the source's id for it, or its text where there is none; 32 hex digits."""
    tail = f"text\0{text}" if source_id is None else f"id\0{source_id}"
    return hashlib.sha256(f"{domain}\0{tail}".encode()).hexdigest()[:32]


def _source_ids(raw: pl.DataFrame, settings: PrepareSettings, where: str) -> pl.Series:
    if settings.id is None:
        return pl.Series([None] * raw.height, dtype=pl.String)
    ids = column(raw, settings.id, where)
    twice = (ids.is_duplicated() & ids.is_not_null()).arg_true()
    if len(twice):
        first = int(twice[0])
        place = f"{where}, row {first + 1}, column '{settings.id}'"
        raise DataError(
            f"the id '{ids[first]}' stands in several rows", where=place, hint="leave 'id' out to use the text"
        )
    return ids


def _contributors(raw: pl.DataFrame, setting: str | ContributorColumn | None, where: str) -> pl.Series:
    if setting is None:
        return pl.Series([None] * raw.height, dtype=pl.String)
    chosen = ContributorColumn(column=setting) if isinstance(setting, str) else setting
    values = column(raw, chosen.column, where).str.strip_chars()
    return values.str.split(chosen.until).list.first() if chosen.until else values


def _named(frame: pl.DataFrame, settings: PrepareSettings, where: str) -> pl.DataFrame:
    if settings.bands:
        return _banded(frame, settings.bands, "column '" + (settings.label or "label") + "'", where)
    if settings.names is None:
        return frame
    unknown = frame.filter(~pl.col("label").is_in(list(settings.names)))
    if unknown.height:
        row, label = unknown["row"][0], unknown["label"][0]
        hint = did_you_mean(label, settings.names) or f"the labels are {', '.join(settings.names)}"
        place = f"{where}, row {row}, column '" + (settings.label or "label") + "'"
        raise DataError(f"the label '{label[:80]}' is not among 'names'", where=place, hint=hint)
    return frame.with_columns(pl.col("label").replace_strict(settings.names, return_dtype=pl.String))


def _banded(frame: pl.DataFrame, bands: tuple[Band, ...], called: str, where: str) -> pl.DataFrame:
    frame = frame.with_columns(number=pl.col("label").cast(pl.Float64, strict=False))
    bad = frame.filter(pl.col("number").is_null() | ~pl.col("number").is_finite())
    if bad.height:
        place = f"{where}, row {bad['row'][0]}, {called}"
        raise DataError(f"'{bad['label'][0][:80]}' is not a number", where=place, hint="'bands' are for numbers")
    chosen = pl.lit(None, dtype=pl.String)
    for band in reversed(bands):  # the first that matches is asked last, and so wins
        inside = pl.lit(value=True)
        if band.start is not None:
            inside &= pl.col("number") >= band.start
        if band.end is not None:
            inside &= pl.col("number") <= band.end
        chosen = pl.when(inside).then(pl.lit(band.label)).otherwise(chosen)
    named = frame.with_columns(named=chosen)
    outside = named.filter(pl.col("named").is_null())
    if outside.height:
        place = f"{where}, row {outside['row'][0]}, {called}"
        hint = 'a last band without ends takes the rest: { label = "neutral" }'
        raise DataError(f"no band holds {outside['number'][0]:g}", where=place, hint=hint)
    return named.with_columns(label="named").drop("number", "named")
