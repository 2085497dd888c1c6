"""The step ``prepare``: rows as they came become a dataset to learn from."""

from __future__ import annotations

import polars as pl

from feilun import datasets
from feilun.errors import DataError, SettingError
from feilun.pipeline.kinds import Dataset, Source
from feilun.pipeline.steps import Workspace, step
from feilun.prepare import cleaning, columns, duplicates, splitting
from feilun.prepare.card import Card
from feilun.prepare.cells import Cells
from feilun.prepare.settings import PrepareSettings, Split


@step("prepare", version=3)
def prepare(source: Source, settings: PrepareSettings, work: Workspace, held_out: Source | None = None) -> Dataset:
    """Clean, deduplicate and split a source's rows; every row that is left out is counted in ``card.json``.

    Args:
        source: rows with the columns that ``settings`` names.
        settings: see ``PrepareSettings``.
        work: where ``data.parquet`` and ``card.json`` are written.
        held_out: rows that are the test split; all of ``source`` is learned from then.

    Returns:
        Rows with id, text, split, contributor and domain, and the columns of ``datasets.TRUTH`` that the settings name.
        A row's id and split depend on that row alone.

    Raises:
        DataError: the rows cannot be read, a cell holds what it should not, or what is left cannot be learned from.
        SettingError: both ``held_out`` and ``split`` say what is held out.
    """
    where = str(source.facts.get("origin", source.short))
    if held_out is not None and settings.split is not None:
        raise SettingError("held_out is the test split already", where="prepare: split", hint="leave split out")
    files = [(part, None if held_out is None else "train") for part in _rows(source, settings)]
    files += [(part, "test") for part in (_rows(held_out, settings) if held_out is not None else [])]
    card = Card(source, settings, sum(part.rows for part, _ in files))
    work.record("reading", 1, 5, rows=card.rows)

    cleaned = []
    for number, (cells, side) in enumerate(files):
        told = columns.resolve(settings, cells, source.facts if side != "test" or held_out is None else held_out.facts)
        part = cleaning.clean(cells, told.model_copy(update={"split": None}) if side else told, card, number)
        cleaned.append(part.with_columns(split=pl.lit(side)) if side else part)
    frame = pl.concat(cleaned, how="diagonal")
    work.record("cleaning", 2, 5, rows=frame.height)
    declared = "split" in frame.columns
    if declared:
        frame = card.filtered("for_development", frame, frame.filter(pl.col("split") != ""))
    else:
        frame = splitting.split(frame, settings.split if isinstance(settings.split, Split) else Split())
    work.record("splitting", 3, 5, rows=frame.height)
    frame = duplicates.without_exact(frame, card)
    frame = duplicates.without_near(frame, settings.near_duplicate, card, declared=declared)
    work.record("comparing", 4, 5, rows=frame.height)
    if settings.limit is not None:
        frame = card.filtered("over_limit", frame, frame.sort("id").head(settings.limit))
    _check_learnable(frame, card, where)
    if not declared:
        _check_split(frame, settings, where)

    datasets.write(frame.select(c for c in datasets.ORDER if c in frame.columns), work.folder)
    card.write(frame, work.folder)
    work.record("writing", 5, 5, **card.removed, rows=frame.height)
    licence = source.facts.get("licence")
    parents = [source, *([held_out] if held_out is not None else [])]
    return work.finish(Dataset, parents, **datasets.describe(frame), domain=settings.domain, licence=licence)


def _rows(source: Source, settings: PrepareSettings) -> list[Cells]:
    parts = datasets.read_parts(source, encoding=settings.encoding, columns=settings.columns, form=settings.format)
    return [Cells(part) for part in parts]


def _check_learnable(frame: pl.DataFrame, card: Card, where: str) -> None:
    if frame.height == 0:
        lost = ", ".join(f"{count} {name}" for name, count in card.removed.items() if count)
        raise DataError("no row is left", where=where, hint=f"left out: {lost}")
    facts = datasets.describe(frame)
    if "label" in frame.columns and len(facts["labels"]) < 2:
        hint = "check the column 'label', 'bands' and 'names'; learning needs two labels or more"
        raise DataError(f"every row has the label '{facts['labels'][0]}'", where=where, hint=hint)
    if {"labels", "spans"} & set(frame.columns) and not facts["labels"]:
        raise DataError("no row has any label", where=where, hint="check the column 'labels' or 'spans', and 'names'")
    if "score" in frame.columns and frame["score"].n_unique() < 2:
        raise DataError(f"every row has the score {frame['score'][0]:g}", where=where, hint="check the column 'score'")
    train, test = (datasets.labels(frame.filter(split=split)) for split in ("train", "test"))
    if unseen := sorted(set(test) - set(train)) if facts["splits"]["train"] else []:
        hint = "add rows with this label, or leave it out"
        raise DataError(f"the label '{unseen[0]}' is in test but not in train", where=where, hint=hint)


def _check_split(frame: pl.DataFrame, settings: PrepareSettings, where: str) -> None:
    shares = settings.split if isinstance(settings.split, Split) else Split()
    for split, count in datasets.describe(frame)["splits"].items():
        if getattr(shares, split) > 0 and count == 0:
            hint = f"{frame.height} rows are too few to split, or the share of {split} is too small"
            raise DataError(f"no row falls into {split}", where=where, hint=hint)
