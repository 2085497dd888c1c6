"""Weights and how to run them: tokens, networks to train, engines to answer with.

Nothing heavy is imported here, so that ``feilun.models.openvino`` answers in a process that never loads torch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, cast

from feilun.pipeline.kinds import Model

if TYPE_CHECKING:
    from feilun.models.inference import Predictions

# OpenVINO and NNCF report their use over the network from the moment they are imported. Where this package is missing
# they don't, and None makes it missing.
sys.modules.setdefault("openvino_telemetry", cast(ModuleType, None))


def predict(model: Model, texts: Sequence[str]) -> Predictions:
    """Labels and scores that a model gives N texts; see ``feilun.models.inference.predict``."""
    from feilun.models import inference

    return inference.predict(model, texts)
