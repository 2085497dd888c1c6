"""The settings of ``[finetune.NAME]``."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from feilun import tasks
from feilun.errors import did_you_mean
from feilun.finetune import augment_options
from feilun.models.adapting import options
from feilun.tasks.options import USED_BY, TaskOptions
from feilun.training.settings import FitSettings


class FinetuneSettings(FitSettings, TaskOptions, options.MethodOptions, augment_options.AugmentOptions):
    """What is trained, on what, and how long."""

    task: str = Field(default="classify", description="How examples are read and what the answer is")
    method: options.Method = Field(
        default="full",
        description="full: every weight that is not frozen is trained; head: none but the task's own; bitfit: biases; "
        "lora: low-rank changes, merged when done; adapter: narrow networks between the blocks; prefix, prompt: "
        "learned tokens; few-shot: texts of one label learn to be near each other, then a head is computed",
    )
    architecture: Literal["base", "lstm", "bilstm"] = Field(
        default="base",
        description="base: the base's own network; lstm, bilstm: a recurrent one that starts from nothing and takes "
        "the base's tokenizer alone, for comparison",
    )
    width: int = Field(default=256, ge=2, le=4096, multiple_of=2, description="lstm, bilstm: numbers in a state")
    depth: int = Field(default=1, ge=1, le=16, description="lstm, bilstm: layers")
    context: int = Field(default=128, ge=2, le=8192, description="Tokens of a text that are read; the rest is cut off")

    @model_validator(mode="before")
    @classmethod
    def _from_nothing(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("architecture", "base") != "base":
            return {"freeze_embeddings": False} | given  # to keep what is random as it is would be no default
        return given

    @field_validator("task")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in tasks.NAMES:
            raise ValueError(f"there is no task '{name}'; " + (did_you_mean(name, tasks.NAMES) or "see feilun/tasks"))
        return name

    @model_validator(mode="after")
    def _task_reads_its_options(self) -> Self:
        names = {self.task, *(task for (short, _), task in tasks.MEANT.items() if short == self.task)}
        for name in sorted(self.model_fields_set & USED_BY.keys()):
            if names.isdisjoint(USED_BY[name]):
                raise ValueError(
                    f"'{name}' has no effect with task = '{self.task}': it is for {', '.join(USED_BY[name])}"
                )
        return self

    @model_validator(mode="after")
    def _architecture_reads_its_options(self) -> Self:
        for name in sorted(self.model_fields_set & {"width", "depth"}):
            if self.architecture == "base":
                raise ValueError(f"'{name}' has no effect with the base's own architecture: it is for lstm, bilstm")
        return self

    @model_validator(mode="after")
    def _method_reads_its_options(self) -> Self:
        for name in sorted(self.model_fields_set & options.USED_BY.keys()):
            if self.method not in options.USED_BY[name]:
                methods = ", ".join(options.USED_BY[name])
                raise ValueError(f"'{name}' has no effect with method = '{self.method}': it is for {methods}")
        return self

    @model_validator(mode="after")
    def _few_shot_is_for_labels(self) -> Self:
        if self.method == "few-shot":
            if self.task != "classify":
                raise ValueError(f"method = 'few-shot' is for task = 'classify', not for '{self.task}'")
            without = {"held_out", "label_smoothing", "class_weight", "threshold"}
            for name in sorted(self.model_fields_set & without):
                raise ValueError(f"'{name}' has no effect with method = 'few-shot'")
        return self

    @model_validator(mode="after")
    def _decides_on_rows_that_are_held_out(self) -> Self:
        if self.threshold == 0 and not self.held_out and self.method != "few-shot":
            raise ValueError(
                "threshold = 0 chooses it on rows that are not learned from: set held_out, for example to 0.1"
            )
        return self

    @model_validator(mode="after")
    def _augments_what_can_be(self) -> Self:
        if not self.augment:
            for name in sorted(
                self.model_fields_set & augment_options.AugmentOptions.model_fields.keys() - {"augment"}
            ):
                raise ValueError(f"'{name}' has no effect without 'augment'")
            return self
        if self.task not in augment_options.TASKS:
            raise ValueError(f"augment is for {', '.join(augment_options.TASKS)}, not for task = '{self.task}'")
        if "paraphrase" in self.augment and self.task == "tag":
            raise ValueError("a paraphrase does not say where the names are: task = 'tag' takes the other ways")
        if self.augment_compare and not self.held_out:
            hint = "set held_out, for example to 0.1, or augment_compare = false"
            raise ValueError(f"what altered texts change is measured on rows that are not learned from: {hint}")
        return self
