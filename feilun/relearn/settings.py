"""Settings of ``[relearn.<name>]``; the name is that of the model that learns (``serve.<name>``)."""

from __future__ import annotations

from pydantic import Field, field_validator

from feilun.pipeline.steps import Settings
from feilun.store.money import parse_money


class RelearnSettings(Settings):
    """How a turn of the wheel learns, and what a right answer is worth."""

    horizon_days: int = Field(30, ge=1, le=3650)  # over which a better model has to earn back its training
    value_per_correct_answer: str = "0.002 USD"
    max_drop: float = Field(0.01, ge=0, le=1)  # of the old domains' macro-F1: more than that and nothing is promoted
    min_feedback: int = Field(100, ge=2)  # consented corrections below which a turn is not worth starting
    min_held_out: int = Field(20, ge=1)  # held-out corrections below which nothing is promoted
    replay: float = Field(1.0, ge=0, le=1000)  # old examples mixed in, for each new one
    test_share: float = Field(0.3, gt=0, lt=1)
    epochs: int = Field(1, ge=1)
    learning_rate: float = Field(3e-5, gt=0, lt=1)
    seed: int = 0

    @field_validator("value_per_correct_answer")
    @classmethod
    def _is_money(cls, text: str) -> str:
        try:
            parse_money(text)
        except Exception as error:
            raise ValueError(str(error)) from error
        return text


class MixSettings(Settings):
    """How feedback and replay are mixed."""

    replay: float = Field(1.0, ge=0, le=1000)
    seed: int = 0
