"""The settings of ``[compress.NAME]``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from feilun.pipeline.steps import Settings


class CompressSettings(Settings):
    """How the model is made smaller, and how much it may differ afterwards."""

    quantise: Literal["int8", "int8-static", "int4", "none"] = Field(
        default="int8",
        description="int8: 8-bit weights, activations rounded as they come; int8-static: the activations' ranges are "
        "fixed by training rows, a third faster in bulk, more answers change; int4: 4-bit weights, of what writes "
        "alone; none: 32 bits",
    )
    apart: bool = Field(
        default=False,
        description="keep the model apart from its base: all that were tuned from one by LoRA, or by their head alone, "
        "share it in the gateway, its memory and its runs",
    )
    calibration_rows: int = Field(
        default=256, ge=1, le=10_000, description="Training rows that fix the ranges of int8-static"
    )
    parity_rows: int = Field(
        default=500, ge=1, description="Held-out rows, at the most, on which both models are compared"
    )
    max_disagreement: float = Field(
        default=0.03,
        ge=0,
        le=1,
        description="More answers changed than this share is refused",
    )
    max_token_changes: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Of a model that writes: more next tokens changed than this share is refused; most are near-ties",
    )
    max_perplexity_change: float = Field(
        default=0.05, ge=0, description="Right answers that became more perplexing than by this share are refused"
    )
    seed: int = Field(default=0, ge=0, description="Decides which rows are taken")
