"""Options that several commands have, so that they are spelled and explained once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from feilun.flywheel import Flywheel

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else, on standard output.")]
Root = Annotated[Path, typer.Option("--project", "-p", help="The project's folder, or one inside it.")]
Set = Annotated[list[str], typer.Option("--set", help="Change a setting: finetune.reviews.epochs=2 (may be repeated).")]
HERE = Path()


def open_wheel(root: Path, changes: list[str] | None = None) -> Flywheel:
    """The project in ``root`` or in the nearest folder above it."""
    from feilun.flywheel import Flywheel

    return Flywheel(root, changes or [])
