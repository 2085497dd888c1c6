"""Sources into datasets: repaired, deduplicated, split, every row that was left out counted."""

from __future__ import annotations

from feilun.prepare.settings import Band, ContributorColumn, PrepareSettings, Split
from feilun.prepare.step import prepare

__all__ = ["Band", "ContributorColumn", "PrepareSettings", "Split", "prepare"]
