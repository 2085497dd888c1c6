"""The settings of ``[finetune.NAME]``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from feilun import tasks
from feilun.errors import did_you_mean
from feilun.tasks.options import TaskOptions
from feilun.training.settings import FitSettings


class FinetuneSettings(FitSettings, TaskOptions):
    """What is trained, on what, and how long."""

    task: str = Field(default="classify", description="How examples are read and what the answer is")
    method: Literal["full"] = Field(default="full", description="full: every weight that is not frozen is trained")
    context: int = Field(default=128, ge=2, le=8192, description="Tokens of a text that are read; the rest is cut off")

    @field_validator("task")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in tasks.NAMES:
            raise ValueError(f"there is no task '{name}'; " + (did_you_mean(name, tasks.NAMES) or "see feilun/tasks"))
        return name
