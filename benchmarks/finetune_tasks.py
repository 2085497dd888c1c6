"""Numbers, several labels, pairs, vectors and orders from MiniLM on public texts, each figure with its 95 % interval.

Beside each stands what needs no training of a network: words weighted by TF-IDF and a linear model, or the base's own
vectors. Where BANKING77's questions are compared, every fourth intent is held out of the training: how well questions
of intents that the model has never seen are found is a figure of its own.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks import material
from benchmarks.bench import Row, Run, row

UNSEEN = 4  # one intent in so many is in no training row


def regress(run: Run) -> Iterator[Row]:
    """The mean rating, from -4 to 4, that people gave to a sentence of a film review."""
    lines = [line.split("\t", 2) for line in material.read("catalog:vader-reviews/films").splitlines()]
    rows = [{"text": text, "score": float(rating)} for _, rating, text in lines]
    frame = _split(rows, run.size(4_000, 120), run.size(1_500, 60))
    yield from _measured(run, "regress", frame, {"epochs": 2}, "r2 pearson spearman mae")
    train, test = _halves(frame)
    linear = _linear(train, test, train["score"].to_numpy())
    yield row("regress-words-pearson", "TF-IDF and ridge", "", [np.corrcoef(linear, test["score"])[0, 1]])


def multilabel(run: Run) -> Iterator[Row]:
    """The genres of a film, from nothing but its title and year."""
    lines = [line.split("\t") for line in material.read("catalog:ml-100k/items").splitlines()[1:]]
    rows = [{"text": f"{title} ({year})", "labels": sorted(set(genres.split()))} for _, title, year, genres in lines]
    frame = _split(rows, run.size(1_300, 120), run.size(380, 60))
    settings = {"epochs": 8, "threshold": 0.0, "held_out": 0.15}
    yield from _measured(run, "multilabel", frame, settings, "micro_f1 macro_f1 exact_match")
    train, test = _halves(frame)
    usual = train["labels"].explode().value_counts(sort=True)["labels"][:2].to_list()
    from feilun.tasks import metrics_multilabel

    known = sorted({*train["labels"].explode(), *test["labels"].explode()})
    truth = metrics_multilabel.marks(test["labels"].to_list(), known)
    same = metrics_multilabel.figures(truth, metrics_multilabel.marks([usual] * len(test), known))[0]
    yield row("multilabel-usual-micro_f1", f"{' and '.join(usual)} for every film", "", [same.figure])


def pair(run: Run) -> Iterator[Row]:
    """Do two questions to a bank ask for the same? Half do; the others are the nearest by words of another intent."""
    frame = _questions(run.size(4_000, 240), run.size(1_000, 120))
    yield from _measured(run, "pair", _as_pairs(frame), {"epochs": 3}, "accuracy roc_auc")


def embed(run: Run) -> Iterator[Row]:
    """Questions to a bank find those of the same intent."""
    frame = _questions(run.size(6_000, 240), run.size(3_080, 120))
    shown = "ndcg_at_10 mrr_at_10 hit_at_1 recall_at_10"
    yield from _measured(run, "embed", frame, {"epochs": 3, "batch_tokens": 2048}, shown)


def rank(run: Run) -> Iterator[Row]:
    """One right question among ten, the wrong ones the nearest by words."""
    frame = _questions(run.size(2_000, 120), run.size(500, 60))
    yield from _measured(run, "rank", frame, {"epochs": 2, "batch_tokens": 2048}, "ndcg_at_10 mrr_at_10 hit_at_1")


def _measured(run: Run, task: str, frame: pl.DataFrame, settings: Mapping[str, Any], shown: str) -> Iterator[Row]:
    """Tune on the training rows and ask for the others, by domain where there are several; vectors before as well."""
    from feilun import tasks
    from feilun.models.network import Answering
    from feilun.tasks import bootstrap

    train, test = _halves(frame)
    network, seconds = _tuned(run, task, train, settings)
    yield row(f"{task}-seconds", f"{len(train):,} rows, {settings['epochs']} epochs", "s", [seconds])
    module = tasks.get(task)
    answering = {"tuned": Answering(network)}
    if task == "embed":
        answering["before"] = Answering(_base(run, "vector", []))
    for name, engine in answering.items():
        every = module.measure(test, module.answer(engine, test), network.labels)
        wanted = [metric for metric in every if metric.name in shown.split()]
        for domain in sorted(test["domain"].unique()):
            chosen = [metric.of((test["domain"] == domain).to_numpy()) for metric in wanted]
            for metric, drawn in zip(chosen, bootstrap.draws(chosen, 1000, 0), strict=True):
                low, high = bootstrap.interval(drawn)
                what = f"{metric.name}, {domain}, {name}: 95 % interval {low:.3f} to {high:.3f}"
                yield row(f"{task}-{name}-{domain}-{metric.name}", what, "", [metric.figure])


def _base(run: Run, head: str, labels: Sequence[str]) -> Any:
    from feilun.models import network as networks

    network = networks.load(material.encoder(run.folder), 64)
    network.relabel(labels, 0, head)
    return network


def _tuned(run: Run, task: str, train: pl.DataFrame, said: Mapping[str, Any]) -> tuple[Any, float]:
    """What the step finetune does, but for the artefacts."""
    from feilun import tasks
    from feilun.finetune import holding
    from feilun.finetune.settings import FinetuneSettings
    from feilun.tasks.task import Decides
    from feilun.training.loop import fit

    settings = FinetuneSettings.model_validate({"task": task, "learning_rate": 3e-4, "context": 64, **said})
    module = tasks.get(task)
    network = _base(run, module.HEAD, module.labels(train))
    learned, held_out = holding.split(train, settings)
    scratch = Path(run.folder / f"{task}-scratch")
    scratch.mkdir()
    begun = time.perf_counter()
    for _ in fit(network, module.examples(learned, network, settings), module.losses, settings, scratch):
        pass
    seconds = time.perf_counter() - begun
    if isinstance(module, Decides):
        network.decided = module.decide(network, held_out, settings)
    return network, seconds


def _split(rows: Sequence[Mapping[str, Any]], train: int, test: int) -> pl.DataFrame:
    """So many rows of each split, drawn without replacement."""
    chosen = random.Random(0).sample(range(len(rows)), train + test)
    return pl.DataFrame(
        [
            {"id": f"row-{i:05d}", "split": "train" if place < train else "test", "domain": "all", **rows[i]}
            for place, i in enumerate(chosen)
        ]
    )


def _questions(train: int, test: int) -> pl.DataFrame:
    """BANKING77: training rows of three intents in four, test rows of all; the domain says whether they were seen."""
    parts = material.banking77()
    made = []
    for split, rows, most in (("train", parts[0], train), ("test", parts[1], test)):
        kept = [(text, y) for text, y in rows if split == "test" or y % UNSEEN]
        for i, (text, y) in enumerate(random.Random(0).sample(kept, min(most, len(kept)))):
            seen = "seen intents" if y % UNSEEN else "new intents"
            made.append({"id": f"{split}-{i:05d}", "split": split, "domain": seen, "text": text, "label": str(y)})
    return pl.DataFrame(made)


def _as_pairs(frame: pl.DataFrame) -> pl.DataFrame:
    """Each question with one of its own intent, and every second time with the nearest of another one instead."""
    from feilun.tasks import matches, nearby

    made = []
    for split in ("train", "test"):
        part = frame.filter(pl.col("split") == split)
        found = matches.find(part)
        numbers: dict[str, int] = {}
        words = [[numbers.setdefault(word, len(numbers)) for word in text.lower().split()] for text in found.documents]
        asked = [words[number] for number in found.itself.tolist()] if found.itself is not None else []
        near = nearby.wrong(asked, words, found.right, 1)
        for i, line in enumerate(part.iter_rows(named=True)):
            other = found.positive[i] if i % 2 else near[i][0]
            made.append(line | {"other": found.documents[int(other)], "label": "same" if i % 2 else "another"})
    return pl.DataFrame(made)


def _halves(frame: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    return frame.filter(pl.col("split") == "train"), frame.filter(pl.col("split") == "test")


def _linear(train: pl.DataFrame, test: pl.DataFrame, numbers: Any) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import Ridge

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    return Ridge().fit(words.fit_transform(train["text"]), numbers).predict(words.transform(test["text"]))
