"""Settings of the steps that derive a dataset for one training of many; no project file names them."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from feilun.pipeline.steps import Settings

By = Literal["text", "contributor", "domain", "time"]


class FoldSettings(Settings):
    """Which part of the training rows is held out."""

    folds: int = Field(default=5, ge=2, le=100, description="Into how many parts the training rows are divided")
    fold: int = Field(default=0, ge=0, description="Which of them is held out")
    by: By = Field(default="text", description="What is never on both sides: a text, a contributor, a domain, the past")
    seed: int = Field(default=0, ge=0, description="Decides which row is in which part")

    @model_validator(mode="after")
    def _is_one_of_them(self) -> Self:
        if self.fold >= self.folds:
            raise ValueError(f"there is no fold {self.fold} of {self.folds}")
        return self


class SubsetSettings(Settings):
    """How many of the training rows are kept."""

    rows: int = Field(ge=1, description="Training rows that are kept; those of fewer rows are among those of more")
    seed: int = Field(default=0, ge=0, description="Decides which ones")
