"""The section ``[bill.products.<name>]``: rows or counts that are sold, from people who let them be shared."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from feilun.pipeline.steps import Settings

COLUMNS = ("text", "label", "split", "domain")  # what a sold row may have; ids and contributors are not among them
GROUPS = ("label", "split", "domain")
MEASURES = ("rows", "contributors", "characters")

Column = Literal["text", "label", "split", "domain"]
Group = Literal["label", "split", "domain"]
Measure = Literal["rows", "contributors", "characters"]
FEEDBACK = "feedback"


class ProductSettings(Settings):
    """What goes into a product. Its price is the buyer's plan's, for the meters ``rows`` and ``downloads``.

    Only rows go in whose contributor's consent to the purpose ``share`` held when the row was given and holds now.
    """

    source: str = Field(pattern=r"^(feedback|[a-z]+\.[A-Za-z0-9_-]+)$")  # "feedback", or a dataset: "prepare.films"
    tenant: str | None = None  # at whom a dataset's contributors gave their consent; of feedback it is known
    kind: Literal["dataset", "aggregate"] = "dataset"
    licence: Annotated[str, Field(min_length=1, max_length=200)]
    columns: tuple[Column, ...] = Field(("text", "label"), min_length=1)
    contributors: Literal["drop", "pseudonym"] = "drop"
    rare_texts: Literal["flag", "drop"] = "flag"
    group_by: tuple[Group, ...] = ("label",)
    measures: tuple[Measure, ...] = Field(("rows",), min_length=1)
    least: int = Field(5, ge=2, le=10_000)  # contributors of the smallest group that is published

    @model_validator(mode="after")
    def _agree(self) -> ProductSettings:
        for called, names in (("columns", self.columns), ("group_by", self.group_by), ("measures", self.measures)):
            if len(set(names)) != len(names):
                raise ValueError(f"{called} names one twice")
        if self.kind == "aggregate" and not self.group_by:
            raise ValueError("an aggregate needs group_by")
        if self.source == FEEDBACK and "split" in (*self.columns, *self.group_by):
            raise ValueError("feedback has no split")
        if self.source != FEEDBACK and self.tenant is None:
            raise ValueError("a dataset's product needs 'tenant': whose contributors its rows are from")
        return self
