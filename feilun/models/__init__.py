"""Weights and how to run them: tokens, networks to train, engines to answer with.

Nothing heavy is imported here, so that ``feilun.models.openvino`` answers in a process that never loads torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from feilun.pipeline.kinds import Model

if TYPE_CHECKING:
    from feilun.models.inference import Predictions


def predict(model: Model, texts: Sequence[str]) -> Predictions:
    """Labels and scores that a model gives N texts; see ``feilun.models.inference.predict``."""
    from feilun.models import inference

    return inference.predict(model, texts)
