"""The settings of ``[finetune.NAME]``."""

from __future__ import annotations

from typing import Self

from pydantic import Field, field_validator, model_validator

from feilun import tasks
from feilun.errors import did_you_mean
from feilun.models.adapting import options
from feilun.tasks.options import TaskOptions
from feilun.training.settings import FitSettings


class FinetuneSettings(FitSettings, TaskOptions, options.MethodOptions):
    """What is trained, on what, and how long."""

    task: str = Field(default="classify", description="How examples are read and what the answer is")
    method: options.Method = Field(
        default="full",
        description="full: every weight that is not frozen is trained; head: none but the task's own; bitfit: biases; "
        "lora: low-rank changes, merged when done; adapter: narrow networks between the blocks; prefix, prompt: "
        "learned tokens",
    )
    context: int = Field(default=128, ge=2, le=8192, description="Tokens of a text that are read; the rest is cut off")

    @field_validator("task")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in tasks.NAMES:
            raise ValueError(f"there is no task '{name}'; " + (did_you_mean(name, tasks.NAMES) or "see feilun/tasks"))
        return name

    @model_validator(mode="after")
    def _method_reads_its_options(self) -> Self:
        for name in sorted(self.model_fields_set & options.USED_BY.keys()):
            if self.method not in options.USED_BY[name]:
                methods = ", ".join(options.USED_BY[name])
                raise ValueError(f"'{name}' has no effect with method = '{self.method}': it is for {methods}")
        return self
