"""What a project file may say of a task, beside which one it is; without torch."""

from __future__ import annotations

from typing import Literal

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
    learn_from: Literal["all", "last"] = Field(
        default="all", description="Which of the assistant's messages in a conversation are learned"
    )
    template: Literal["own", "plain"] = Field(
        default="own",
        description="own: conversations as the model's tokenizer writes them; plain: the question, then the answer",
    )
    too_long: Literal["refuse", "skip"] = Field(
        default="refuse", description="What becomes of conversations that are longer than the context"
    )
    answer_tokens: int = Field(default=128, ge=1, le=8192, description="Tokens of a written answer, at the most")
    sampling: float = Field(
        default=0.0, ge=0, le=5, description="How answers are written: 0 takes the likeliest piece, else a temperature"
    )
    top_p: float = Field(
        default=1.0, gt=0, le=1, description="Pieces that are sampled from: the likeliest that add up to this share"
    )
    preference: Literal["dpo", "orpo"] = Field(
        default="dpo", description="dpo holds on to what the model was; orpo learns to write the better answer as well"
    )
    beta: float = Field(
        default=0.1, gt=0, le=10, description="How much a preference counts against what the model was, or its answer"
    )


USED_BY: dict[str, tuple[str, ...]] = {
    # option -> the tasks that read it
    "answer_tokens": ("generate", "prefer"),
    "balance": ("classify", "multilabel", "pair", "tag"),
    "beta": ("prefer",),
    "class_weight": ("classify", "multilabel", "pair"),
    "label_smoothing": ("classify", "multilabel", "pair", "tag"),
    "learn_from": ("generate",),
    "negatives": ("rank",),
    "preference": ("prefer",),
    "sampling": ("generate", "prefer"),
    "temperature": ("embed",),
    "template": ("generate", "prefer"),
    "threshold": ("multilabel",),
    "too_long": ("generate", "prefer"),
    "top_p": ("generate", "prefer"),
}
