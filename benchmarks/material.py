"""Real texts and weights for benchmarks, from the catalogue: what is not there is said, never replaced."""

from __future__ import annotations

import csv
import io
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
ENCODER = "catalog:all-MiniLM-L6-v2"
Rows = list[tuple[str, int]]  # text, number of its label


def encoder(folder: Path, reference: str = ENCODER) -> Path:
    """The files of a model in a folder below ``folder``, ready for ``from_pretrained``."""
    from feilun import catalog
    from feilun.pipeline.kinds import Model

    kept = folder / reference.rpartition(":")[2].replace("/", "-")
    if not kept.exists():
        shutil.move(catalog.fetch(reference, Model, root=ROOT).files, kept)
    return kept


def reviews(rows: int, held_out: int = 1000, seed: int = 0) -> tuple[Rows, Rows]:
    """Sentences of film reviews, 1 where people heard praise (mean rating above 0), else 0: training, held-out."""
    found = [
        (text, int(float(rating) > 0))
        for _, rating, text in (line.split("\t", 2) for line in read("catalog:vader-reviews/films").splitlines())
    ]
    random.Random(seed).shuffle(found)
    return found[held_out : held_out + rows], found[:held_out]


def sst2() -> tuple[Rows, Rows]:
    """SST-2: training and test sentences, 0 negative, 1 positive."""
    parts = [
        [(line[2:], int(line[0])) for line in read(f"catalog:sst2/{part}").splitlines()] for part in ("train", "test")
    ]
    return parts[0], parts[1]


def trec() -> tuple[Rows, Rows]:
    """TREC: training and test questions, six kinds."""
    parts = []
    for part, encoding in (("train", "latin-1"), ("test", "utf-8")):
        lines = read(f"catalog:trec/{part}", encoding).splitlines()
        parts.append([(line[2:], int(line[0])) for line in lines])
    return parts[0], parts[1]


def banking77() -> tuple[Rows, Rows]:
    """BANKING77: training and test questions, 77 intents numbered in alphabetical order."""
    train, test = (list(csv.reader(io.StringIO(read(f"catalog:banking77/{part}"))))[1:] for part in ("train", "test"))
    number = {label: i for i, label in enumerate(sorted({label for _, label in train}))}
    return [(t, number[y]) for t, y in train], [(t, number[y]) for t, y in test]


def few(rows: Rows, each: int, seed: int) -> Rows:
    """``each`` rows of every label, chosen by ``seed``."""
    chance, chosen = random.Random(seed), []
    for label in sorted({y for _, y in rows}):
        chosen += chance.sample([row for row in rows if row[1] == label], each)
    return chosen


def texts(rows: Sequence[tuple[str, int]]) -> list[str]:
    """The texts of rows."""
    return [text for text, _ in rows]


def read(reference: str, encoding: str = "utf-8") -> str:
    """The rows of a source, as they are in its file."""
    from feilun import catalog
    from feilun.pipeline.kinds import Source

    folder = catalog.fetch(reference, Source, root=ROOT).files
    try:
        return next(path for path in folder.iterdir() if path.name.startswith("rows.")).read_text(encoding)
    finally:
        shutil.rmtree(folder)
