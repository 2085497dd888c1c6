"""feilun (飞轮, flywheel): from users' data to a model that answers, earns and learns.

    import feilun

    wheel = feilun.open("examples/reviews")
    for outcome in wheel.run():
        print(outcome.name, outcome.artifact.short)

The verbs of the command line are methods of what ``open`` returns; see ``feilun.flywheel.Flywheel``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from feilun.errors import FeilunError

if TYPE_CHECKING:
    from feilun.flywheel import Flywheel

__all__ = ["FeilunError", "open"]


def _wait_for_one_another() -> None:
    """Say how torch's threads wait for one another, before torch is loaded and reads it.

    Alone on the machine they look around for some 30 us before they sleep: a step of training takes 128 ms instead of
    190 to 230. Where something else runs now, a gateway for one, they sleep at once: 245 ms instead of 470 to 670
    (docs/log.md). ``OMP_WAIT_POLICY`` and ``GOMP_SPINCOUNT`` in the environment override both.
    """
    if "OMP_WAIT_POLICY" not in os.environ and "GOMP_SPINCOUNT" not in os.environ:
        os.environ["GOMP_SPINCOUNT"] = "10000" if _is_alone() else "0"


def _is_alone() -> bool:
    """Whether, in one of three looks 1 ms apart, nothing but this process was running."""
    for _ in range(3):
        try:
            running = Path("/proc/loadavg").read_text("ascii").split()[3].split("/")[0]
        except (OSError, IndexError):  # not Linux
            return False
        if running == "1":
            return True
        time.sleep(0.001)
    return False


_wait_for_one_another()


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
