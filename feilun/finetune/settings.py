"""The settings of ``[finetune.NAME]``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from feilun import tasks
from feilun.errors import did_you_mean
from feilun.training.settings import FitSettings


class FinetuneSettings(FitSettings):
    """What is trained, on what, and how long."""

    task: str = Field(default="classify", description="How examples are read and what the answer is")
    method: Literal["full"] = Field(default="full", description="full: every weight that is not frozen is trained")
    balance: float = Field(
        default=0.0,
        ge=0,
        le=2,
        description="0 answers by how frequent each label is, 1 as if all were equally frequent",
    )
    context: int = Field(default=128, ge=2, le=8192, description="Tokens of a text that are read; the rest is cut off")

    @field_validator("task")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in tasks.NAMES:
            raise ValueError(f"there is no task '{name}'; " + (did_you_mean(name, tasks.NAMES) or "see feilun/tasks"))
        return name
