"""The settings of ``[evaluate.NAME]``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from feilun.pipeline.steps import Settings

METRICS = ("macro_f1", "accuracy")


class EvaluateSettings(Settings):
    """What is measured, and what a release must reach.

    ``require = { macro_f1 = 0.75, "films.accuracy" = 0.8 }``: a metric of all rows, or of one domain. The measured
    value counts, not the end of its interval; both stand in the report.
    """

    require: dict[str, float] = Field(
        default_factory=dict, description="Least values; a model that misses one is refused"
    )
    split: Literal["train", "test"] = Field(default="test", description="Which rows are asked")
    resamples: int = Field(default=1000, ge=100, le=100_000, description="Of the bootstrap behind the 95 % intervals")
    seed: int = Field(default=0, ge=0, description="Of the bootstrap")

    @field_validator("require")
    @classmethod
    def _are_metrics(cls, require: dict[str, float]) -> dict[str, float]:
        for name, value in require.items():
            if name.rpartition(".")[2] not in METRICS:
                raise ValueError(f"'{name}' is not {' or '.join(METRICS)}, with or without 'domain.' before it")
            if not 0 <= value <= 1:
                raise ValueError(f"'{name}' must be between 0 and 1")
        return require
