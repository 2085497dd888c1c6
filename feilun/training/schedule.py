"""What share of its highest the learning rate is at each step."""

from __future__ import annotations

import math

from feilun.training.settings import FitSettings


def share(step: int, steps: int, settings: FitSettings) -> float:
    """The share of the highest rate at ``step`` of ``steps``, counted from 0; above 0 at every step.

    linear and cosine reach 0 after the last step, wsd (warm-up, stable, decay: Hu et al. 2024, arXiv 2404.06395) stays
    at 1 and falls in a straight line at the end, constant stays.

    >>> steps = FitSettings(warmup=0.2)
    >>> [round(share(s, 10, steps), 3) for s in range(10)]
    [0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]
    """
    rising = settings.warmup * steps
    if step < rising:
        return min(1.0, (step + 1) / rising)
    left = (steps - step) / (steps - rising)  # of what comes after the warm-up: from 1 down to 1 / steps
    match settings.schedule:
        case "linear":
            return left
        case "cosine":
            return (1 - math.cos(math.pi * left)) / 2
        case "wsd":
            return min(1.0, (steps - step) / (settings.decay * steps))
        case "constant":
            return 1.0
