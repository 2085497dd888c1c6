"""The steps that derive a dataset for one training of many: its rows are those of its parent."""

from __future__ import annotations

import json
from typing import Any

import polars as pl

from feilun import datasets
from feilun.errors import DataError
from feilun.pipeline.kinds import Dataset
from feilun.pipeline.steps import Workspace, step
from feilun.trials import folding
from feilun.trials.settings import FoldSettings, SubsetSettings


@step("fold", version=1, declared=False)
def fold(examples: Dataset, settings: FoldSettings, work: Workspace) -> Dataset:
    """The training rows alone, one part of them held out: what was held out before is not touched.

    By time the held-out block follows those that are learned from, and later ones are left out (a rolling origin).

    Returns:
        A dataset whose split "test" is that part. Rows with a label that only occurs there are left out and counted.

    Raises:
        DataError: there is nothing to hold out, or the rows do not say what they are to be divided by.
        SettingError: fewer groups than parts.
    """
    rows = datasets.read(examples, "train")
    if settings.by == "time":
        part = pl.Series(folding.blocks(rows, settings.folds))
        train, test = rows.filter(part <= settings.fold), rows.filter(part == settings.fold + 1)
    else:
        part = pl.Series(folding.assign(rows, settings.folds, settings.by, settings.seed))
        train, test = rows.filter(part != settings.fold), rows.filter(part == settings.fold)
    told = folding.known(train, test)
    if told.is_empty():
        raise DataError(
            "no row of this fold has a label that the others have",
            where=f"fold {settings.fold + 1} of {settings.folds} by {settings.by}",
            hint="use fewer folds, or more rows",
        )
    made = pl.concat([train, told.with_columns(split=pl.lit("test"))])
    counts = {"learned": train.height, "held_out": told.height, "of_unknown_labels": test.height - told.height}
    return _finish(made, examples, work, counts)


@step("subset", version=1, declared=False)
def subset(examples: Dataset, settings: SubsetSettings, work: Workspace) -> Dataset:
    """Some of the training rows, and all that are held out.

    Raises:
        SettingError: more labels than rows.
    """
    train, test = (datasets.read(examples, split) for split in datasets.SPLITS)
    kept = folding.smaller(train, min(settings.rows, train.height), settings.seed)
    told = folding.known(kept, test)
    counts = {"learned": kept.height, "held_out": told.height, "of_unknown_labels": test.height - told.height}
    return _finish(pl.concat([kept, told]), examples, work, counts)


def _finish(frame: pl.DataFrame, parent: Dataset, work: Workspace, card: dict[str, int]) -> Dataset:
    work.record("dividing", frame.height, frame.height)
    datasets.write(frame, work.folder)
    (work.folder / "card.json").write_text(json.dumps(card, indent=2) + "\n", "utf-8")
    licence: dict[str, Any] = {"licence": parent.facts["licence"]} if "licence" in parent.facts else {}
    return work.finish(Dataset, [parent], **datasets.describe(frame), **licence)
