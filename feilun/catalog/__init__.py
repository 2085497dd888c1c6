"""Known models and data, and every other way in: catalogue, hub, file, URL, SQL query.

``fetch`` turns a reference from the project file into a folder of checked files; ``identity`` says cheaply whether
that would be anything new. Nothing that was fetched is ever executed, and pickles are refused by content.
"""

from __future__ import annotations

from feilun.catalog.entries import Entry, File, entry, names
from feilun.catalog.references import Fetched, check, fetch, identity

__all__ = ["Entry", "Fetched", "File", "check", "entry", "fetch", "identity", "names"]
