"""What a project file may say of altered texts, beside those that are there."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from feilun.pipeline.steps import Settings

Way = Literal["delete", "swap", "synonyms", "paraphrase"]
TASKS = ("classify", "multilabel", "regress", "pair", "similarity", "embed", "rank", "extract", "tag")  # that may


class AugmentOptions(Settings):
    """Settings of augmentation; none by default."""

    augment: tuple[Way, ...] = Field(
        default=(),
        description="Altered copies of the texts are learned from as well: delete drops words, swap exchanges "
        "neighbours, synonyms puts in words of the other texts that mean nearly the same, paraphrase asks the model "
        "that 'paraphraser' names",
    )
    augment_copies: int = Field(default=1, ge=1, le=20, description="Altered copies of each text; the ways take turns")
    augment_share: float = Field(
        default=0.1, gt=0, le=0.5, description="Share of a text's words that delete, swap and synonyms alter"
    )
    augment_compare: bool = Field(
        default=True, description="Train a second time without, and say what the altered texts changed on held-out rows"
    )
