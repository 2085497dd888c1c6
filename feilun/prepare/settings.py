"""The settings of ``[prepare.NAME]``."""

from __future__ import annotations

import math
from typing import Self

from pydantic import ConfigDict, Field, model_validator

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


class PrepareSettings(Settings):
    """Which columns hold what, how labels are made, and which rows are left out."""

    text: str = "text"  # the column with the text
    label: str = "label"  # the column with the label, or with a number that ``bands`` turns into one
    id: str | None = None  # the column with the source's own row ids; without it the text is the id
    contributor: str | ContributorColumn | None = None  # without it every row has its own
    domain: str = Field(default="main", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    bands: tuple[Band, ...] = ()  # the first that holds a number names it
    labels: dict[str, str] | None = None  # every label that may occur -> what to call it
    split: Split = Split()
    min_characters: int = Field(default=1, ge=1)
    max_characters: int = Field(default=10_000, ge=1)
    near_duplicate: float = Field(default=0.8, ge=0.5, le=1)  # Jaccard similarity; 1 looks for exact duplicates only
    limit: int | None = Field(default=None, ge=1)  # at most so many rows: a sample that does not depend on their order
    encoding: str | None = None  # of a text file without a byte-order mark; UTF-8 by default
    columns: tuple[str, ...] | None = None  # names, for a file whose first line is a row already

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if self.bands and self.labels:
            raise ValueError("give bands (for numbers) or labels (for names), not both")
        if self.min_characters > self.max_characters:
            raise ValueError("min_characters is more than max_characters")
        return self
