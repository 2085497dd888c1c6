"""feilun (飞轮, flywheel): from users' data to a model that answers, earns and learns.

    import feilun

    wheel = feilun.open("examples/reviews")
    for outcome in wheel.run():
        print(outcome.name, outcome.artifact.short)

The verbs of the command line are methods of what ``open`` returns; see ``feilun.flywheel.Flywheel``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from feilun.errors import FeilunError

if TYPE_CHECKING:
    from feilun.flywheel import Flywheel

__all__ = ["FeilunError", "open"]

# Read when torch is loaded. Its threads otherwise spin while they wait for one another, and where a gateway answers on
# the same cores, training took six times as long (docs/log.md).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def open(root: Path | str = ".", changes: Sequence[str] = ()) -> Flywheel:
    """The project in ``root`` or in the nearest folder above it.

    Args:
        root: a folder with a ``feilun.toml``, or one inside it.
        changes: settings to change for this time, ``["finetune.reviews.epochs=2"]``.

    Raises:
        FeilunError: there is no project file, or it has problems; all of them are reported.
    """
    from feilun.flywheel import Flywheel

    return Flywheel(root, changes)
