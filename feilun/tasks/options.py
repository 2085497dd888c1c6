"""What a project file may say of a task, beside which one it is; without torch."""

from __future__ import annotations

from pydantic import Field

from feilun.pipeline.steps import Settings


class TaskOptions(Settings):
    """Settings of all tasks; ``finetune`` refuses one that its task does not use."""

    balance: float = Field(
        default=0.0,
        ge=0,
        le=2,
        description="0 answers by how frequent each label is, 1 as if all were equally frequent",
    )
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=1, description="Share of the truth that is spread over all labels"
    )


USED_BY: dict[str, tuple[str, ...]] = {
    # option -> the tasks that read it
    "balance": ("classify",),
    "label_smoothing": ("classify",),
}
