"""The settings of ``[evaluate.NAME]``."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, StrictFloat, field_validator

from feilun.pipeline.steps import Settings

SHARES = ("accuracy", "macro_f1", "micro_f1", "macro_precision", "macro_recall", "roc_auc", "pr_auc", "ece")


class EvaluateSettings(Settings):
    """What is measured, and what a release must reach.

    ``require = { macro_f1 = 0.75, "films.accuracy" = 0.8, "recall:bad" = 0.6 }``: any metric of the task, of all rows
    or of one domain, or precision, recall and f1 of one label. The measured value counts, not the end of its interval;
    both stand in the report. Where lower is better it is the greatest value that passes.
    """

    require: dict[str, StrictFloat] = Field(
        default_factory=dict, description="Least values; a model that misses one is refused"
    )
    split: Literal["train", "test"] = Field(default="test", description="Which rows are asked")
    resamples: int = Field(default=1000, ge=100, le=100_000, description="Of the bootstrap behind the 95 % intervals")
    robustness: bool = Field(default=False, description="Ask again with typos, other casing, missing words")
    efficiency: bool = Field(
        default=False, description="Measure latency, memory and energy here: figures that differ from run to run"
    )
    seed: int = Field(default=0, ge=0, description="Of the bootstrap and of the typos")

    @field_validator("require")
    @classmethod
    def _are_possible(cls, require: dict[str, float]) -> dict[str, float]:
        """Shares are shares; which metrics there are is known once the model has answered."""
        for name, value in require.items():
            is_share = name.rpartition(".")[2] in SHARES or ":" in name
            if not math.isfinite(value) or (is_share and not 0 <= value <= 1):
                raise ValueError(f"'{name}' must be " + ("between 0 and 1" if is_share else "a number"))
        return require
