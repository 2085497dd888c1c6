"""What pins a frozen set of feedback."""

from __future__ import annotations

from pydantic import Field

from feilun.pipeline.steps import Settings


class FeedbackSettings(Settings):
    """Which events go in: those of one model name up to a watermark.

    The watermark is a time by the database's clock, in microseconds. A consent that was withdrawn later has a later
    watermark and so gives another dataset.
    """

    name: str
    until: int
    test_share: float = Field(0.3, gt=0, lt=1)  # of the corrections, held out to judge the candidate
