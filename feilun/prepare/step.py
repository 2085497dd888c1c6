"""The step ``prepare``: rows as they came become a dataset to learn from."""

from __future__ import annotations

import polars as pl

from feilun import datasets
from feilun.errors import DataError
from feilun.pipeline.kinds import Dataset, Source
from feilun.pipeline.steps import Workspace, step
from feilun.prepare import cleaning, duplicates, splitting
from feilun.prepare.card import Card
from feilun.prepare.settings import PrepareSettings, Split


@step("prepare", version=1)
def prepare(source: Source, settings: PrepareSettings, work: Workspace) -> Dataset:
    """Clean, deduplicate and split a source's rows; every row that is left out is counted in ``card.json``.

    Args:
        source: rows with the columns that ``settings`` names.
        settings: see ``PrepareSettings``.
        work: where ``data.parquet`` and ``card.json`` are written.

    Returns:
        Rows with id, text, label, split, contributor and domain. A row's id and split depend on that row alone.

    Raises:
        DataError: the rows cannot be read, a label is unknown, or what is left cannot be learned from.
    """
    where = str(source.facts.get("origin", source.short))
    raw = datasets.read_source(source, encoding=settings.encoding, columns=settings.columns)
    card = Card(source, settings, raw.height)
    work.record("reading", 1, 5, rows=raw.height)

    frame = cleaning.clean(raw, settings, card, where)
    work.record("cleaning", 2, 5, rows=frame.height)
    frame = duplicates.without_exact(frame, card)
    frame = splitting.split(frame, settings.split if isinstance(settings.split, Split) else Split())
    work.record("splitting", 3, 5, rows=frame.height)
    frame = duplicates.without_near(frame, settings.near_duplicate, card)
    work.record("comparing", 4, 5, rows=frame.height)
    if settings.limit is not None:
        frame = card.filtered("over_limit", frame, frame.sort("id").head(settings.limit))
    _check_learnable(frame, settings, card, where)

    datasets.write(frame.select(c for c in datasets.ORDER if c in frame.columns), work.folder)
    card.write(frame, work.folder)
    work.record("writing", 5, 5, **card.removed, rows=frame.height)
    licence = source.facts.get("licence")
    return work.finish(Dataset, [source], **datasets.describe(frame), domain=settings.domain, licence=licence)


def _check_learnable(frame: pl.DataFrame, settings: PrepareSettings, card: Card, where: str) -> None:
    if frame.height == 0:
        lost = ", ".join(f"{count} {name}" for name, count in card.removed.items() if count)
        raise DataError("no row is left", where=where, hint=f"left out: {lost}")
    facts = datasets.describe(frame)
    if len(facts["labels"]) < 2:
        hint = "check the column 'label', 'bands' and 'names'; learning needs two labels or more"
        raise DataError(f"every row has the label '{facts['labels'][0]}'", where=where, hint=hint)
    shares = settings.split if isinstance(settings.split, Split) else Split()
    for split, other in (("test", "train"), ("train", "test")):
        if getattr(shares, split) > 0 and facts["splits"][split] == 0:
            hint = f"{frame.height} rows are too few to split, or the share of {split} is too small"
            raise DataError(f"no row falls into {split}", where=where, hint=hint)
        if split == "test" and shares.train > 0:
            seen = set(frame.filter(split=other)["label"])
            unseen = sorted(set(frame.filter(split=split)["label"]) - seen)
            if unseen:
                hint = "add rows with this label, or leave it out"
                raise DataError(f"the label '{unseen[0]}' is in test but not in train", where=where, hint=hint)
