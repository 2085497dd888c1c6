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
    class_weight: float = Field(
        default=0.0, ge=0, le=1, description="0: every row counts the same while learning; 1: every label does"
    )
    threshold: float = Field(
        default=0.5, ge=0, lt=1, description="The score from which a label is given; 0 chooses it on held-out rows"
    )
    temperature: float = Field(
        default=0.05, gt=0, le=10, description="Of the contrast: the lower, the more the nearest wrong texts count"
    )
    negatives: int = Field(
        default=4,
        ge=1,
        le=64,
        description="Wrong texts that each right one is compared with, where a pair is read at once",
    )


USED_BY: dict[str, tuple[str, ...]] = {
    # option -> the tasks that read it
    "balance": ("classify", "multilabel", "pair", "tag"),
    "class_weight": ("classify", "multilabel", "pair"),
    "label_smoothing": ("classify", "multilabel", "pair", "tag"),
    "negatives": ("rank",),
    "temperature": ("embed",),
    "threshold": ("multilabel",),
}
