"""Which columns of a source hold what: what the settings name, else what the source says, else what they are called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from feilun.prepare.cells import Cells
from feilun.prepare.settings import TAKEN, PrepareSettings

_OF_TRUTH = {*TAKEN, "tokens", "bands", "names"}  # a source's own say nothing where the settings name a truth


def resolve(settings: PrepareSettings, cells: Cells, facts: Mapping[str, Any]) -> PrepareSettings:
    """The settings with every column named that is read.

    Where the source names nothing either, a column called ``label`` is the truth, or else every one that is called as
    one of ``TAKEN``.

    Args:
        settings: of the project file; what it names holds.
        cells: the rows.
        facts: of the source; its ``prepare`` has the names of its columns, of which those count that are there.
    """
    given = settings.model_dump(exclude_none=True, exclude_defaults=True)
    own = {name: value for name, value in facts.get("prepare", {}).items() if name not in given}
    if any(name in given for name in TAKEN):
        own = {name: value for name, value in own.items() if name not in _OF_TRUTH}
    own = {name: value for name, value in own.items() if not isinstance(value, str) or cells.has(value)}
    found = {**own, **given}
    if not any(name in found for name in TAKEN):
        found |= _called_so(cells)
    if "tags" in found:
        found.setdefault("tokens", "tokens")
    spoken = "messages" in found or ("chosen" in found and not cells.has(str(found.get("text", "text"))))
    if "text" not in found and "tokens" not in found and not spoken:
        found["text"] = "text"
    return PrepareSettings.model_validate(found)


def _called_so(cells: Cells) -> dict[str, str]:
    """Columns that are called as what they may hold; beside a label no more than the other text of a pair."""
    there = [name for name in TAKEN if cells.has(name) and (name != "tags" or cells.has("tokens"))]
    if "label" in there:
        there = [name for name in there if name in ("label", "other")]
    return {name: name for name in there or ["label"]}
