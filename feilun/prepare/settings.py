"""The settings of ``[prepare.NAME]``."""

from __future__ import annotations

import math
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from feilun.pipeline.steps import Settings


class Band(Settings):
    """Numbers that become one label: from ``from`` to ``to``, both included; an end that is not given is open."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)

    label: str = Field(min_length=1)
    start: float | None = Field(default=None, alias="from", allow_inf_nan=False)
    end: float | None = Field(default=None, alias="to", allow_inf_nan=False)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.start is not None and self.end is not None and self.start > self.end:
            raise ValueError(f"the band '{self.label}' ends before it begins")
        return self


class ContributorColumn(Settings):
    """Whose words a row is: a column's value, or what stands in it before ``until``."""

    column: str
    until: str | None = Field(default=None, min_length=1)


class Split(Settings):
    """The share of rows in each split; together 1."""

    train: float = Field(default=0.8, ge=0, le=1)
    test: float = Field(default=0.2, ge=0, le=1)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if not math.isclose(self.train + self.test, 1):
            raise ValueError(f"train and test are {self.train + self.test:g} together, not 1")
        return self


# the columns that hold what is learned
TAKEN = ("label", "labels", "spans", "other", "score", "answers", "messages", "chosen", "rejected", "answer", "tags")


class PrepareSettings(Settings):
    """Which columns hold what, how labels are made, and which rows are left out.

    Where no column of ``TAKEN`` is named, those that the source itself names are taken, else those that are called
    so. Cells of CSV and TSV that hold lists or records are JSON.
    """

    text: str | None = None  # the column with the text; by default "text", or what is asked last in ``messages``
    label: str | None = None  # one label, or a number that ``bands`` turns into one
    labels: str | tuple[str, ...] | None = None  # several in one cell, or a column of 0 and 1 for each
    spans: str | None = None  # names in the text: {start, end, label}, or [start, end, label], in characters
    other: str | None = None  # a second text: of a pair, the right document, what a question is asked of
    score: str | None = None  # a number
    answers: str | None = None  # where in ``other`` the answers are: SQuAD's form, {start, text}, or the text alone
    messages: str | None = None  # a conversation of {role, content} that ends with the answer
    chosen: str | None = None  # the better answer: text, or a conversation that ends with it
    rejected: str | None = None  # the worse one; beside ``other`` a wrong text for each right one
    answer: str | None = None  # the right answer to ``text``; together they become ``messages``
    system: str | None = None  # what stands before ``text`` in ``messages``: instructions
    tokens: str | None = None  # a list of words, with ``tags`` (B-place, I-place, O) instead of ``text`` and ``spans``
    tags: str | None = None
    join: str | None = None  # between words of ``tokens``, conll and tagged; by default a space, none in Chinese
    separator: str = Field(default=";", min_length=1)  # between labels in one cell
    id: str | None = None  # the column with the source's own row ids; without it the text is the id
    contributor: str | ContributorColumn | None = None  # without it every row has its own
    time: str | None = None  # the column that says when a row was written: ISO 8601, or numbers that grow
    domain: str = Field(default="main", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    bands: tuple[Band, ...] = ()  # the first that holds a number names it
    names: dict[str, str] | None = None  # every label that may occur -> what to call it
    split: Split | str | None = None  # shares, or the column that says train or test; 0.8 and 0.2 by default
    min_characters: int = Field(default=1, ge=1)
    max_characters: int = Field(default=10_000, ge=1)
    near_duplicate: float = Field(default=0.8, ge=0.5, le=1)  # Jaccard similarity; 1 looks for exact duplicates only
    limit: int | None = Field(default=None, ge=1)  # at most so many rows: a sample that does not depend on their order
    format: Literal["csv", "tsv", "jsonl", "parquet", "lines", "conll", "tagged"] | None = None  # by default the suffix
    encoding: str | None = None  # of a text file without a byte-order mark; UTF-8 by default
    columns: tuple[str, ...] | None = None  # names, for a file whose first line is a row already

    @field_validator("labels", mode="before")
    @classmethod
    def _is_a_column(cls, given: Any) -> Any:
        if isinstance(given, dict):
            raise ValueError("labels is the column with several labels; to call labels something else: names = { ... }")
        return given

    @field_validator("domain")
    @classmethod
    def _is_no_total(cls, given: str) -> str:
        if given == "all":
            raise ValueError("reports call the rows of every domain 'all': give the domain another name")
        return given

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if self.bands and self.names:
            raise ValueError("give bands (for numbers) or names (for labels), not both")
        if bool(self.chosen) != bool(self.rejected) and not (self.rejected and self.other):
            raise ValueError("chosen and rejected go together: the better and the worse answer, or other and rejected")
        if self.answers and not self.other:
            raise ValueError("answers stand in a text: name its column, other = ...")
        if self.messages and (self.text or self.answer or self.system):
            raise ValueError("messages is the whole conversation: leave text, answer and system out")
        if self.min_characters > self.max_characters:
            raise ValueError("min_characters is more than max_characters")
        return self
