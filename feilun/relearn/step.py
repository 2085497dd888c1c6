"""Mix what users corrected with what the model knew, so that learning the one does not forget the other."""

from __future__ import annotations

import json

import polars as pl

from feilun import datasets
from feilun.errors import DataError
from feilun.pipeline.kinds import Dataset
from feilun.pipeline.steps import Workspace, step
from feilun.relearn.settings import MixSettings


@step("mix", version=1, declared=False)
def mix(feedback: Dataset, old: Dataset, settings: MixSettings, work: Workspace) -> Dataset:
    """All of the feedback's training rows and ``settings.replay`` times as many old ones, drawn at random.

    Experience replay (Rolnick et al. 2019, arXiv 1811.11682): a sample of the old rows, redrawn for each turn under a
    seed. Held-out rows stay held out: each row keeps its split, and a training row whose text is held out anywhere is
    removed and counted. A correction of an earlier turn whose consent was withdrawn is not replayed.

    Args:
        feedback: corrected examples, domain = tenant.
        old: what the champion was trained on.

    Returns:
        A dataset with the new and the replayed training rows, and the held-out rows of both.

    Raises:
        DataError: the old rows have no single label to correct.
    """
    new = datasets.read(feedback)
    known = still_allowed(alike(datasets.read(old), new), new)
    held_out = pl.concat([new, known]).filter(pl.col("split") == "test")
    fresh = unlearned(new, known)
    pool = known.filter(pl.col("split") == "train").join(fresh, on="text", how="anti")
    wanted = min(pool.height, round(settings.replay * fresh.height))
    replayed = pool.sample(wanted, seed=settings.seed, shuffle=True)
    train = pl.concat([fresh, replayed])
    clean = train.join(held_out, on="text", how="anti")
    mixed = pl.concat([clean, held_out.unique("id", maintain_order=True)])
    card = {
        "feedback": fresh.height,
        "replayed": replayed.height,
        "of": pool.height,
        "held_out": held_out.height,
        "leaked_and_removed": train.height - clean.height,
    }
    work.record("mixing", clean.height, clean.height)
    datasets.write(mixed, work.folder)
    (work.folder / "card.json").write_text(json.dumps(card, indent=2) + "\n", "utf-8")
    licences = sorted({str(d.facts.get("licence")) for d in (feedback, old)})
    return work.finish(Dataset, [feedback, old], **datasets.describe(mixed), licence="; ".join(licences))


def alike(old: pl.DataFrame, feedback: pl.DataFrame) -> pl.DataFrame:
    """``old`` with the columns that corrections have; what else a source told of its rows is not learned from.

    Raises:
        DataError: ``old`` lacks one: it is a dataset of another task.
    """
    for name in feedback.columns:
        if name not in old.columns:
            raise DataError(
                f"the rows that the model learned from have no column '{name}', as corrections have",
                where=f"relearn: columns {', '.join(old.columns)}",
                hint="corrections are one label for a text: only a model that classifies learns from them",
            )
    return old.select(feedback.columns)


def still_allowed(old: pl.DataFrame, feedback: pl.DataFrame) -> pl.DataFrame:
    """``old`` without the corrections that ``feedback`` no longer holds: their consent was withdrawn since."""
    given = pl.col("id").str.starts_with(datasets.FEEDBACK)
    return old.filter(~given | pl.col("id").is_in(feedback["id"].implode()))


def unlearned(feedback: pl.DataFrame, old: pl.DataFrame) -> pl.DataFrame:
    """The training rows of ``feedback`` that ``old`` does not hold with the same label: new since the last turn."""
    return feedback.filter(split="train").join(old, on=["id", "label"], how="anti")
