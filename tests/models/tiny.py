"""A BERT of two layers, a tokenizer of a few words, and examples that can be learned in a second."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import polars as pl
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from feilun import datasets
from feilun.models import network
from feilun.pipeline.execute import run_step
from feilun.pipeline.kinds import Dataset, Model
from feilun.pipeline.steps import STEPS
from feilun.store.artifacts import Artifact, ArtifactStore
from feilun.store.migrations import open_database

torch.set_num_threads(1)  # threads cost more than they give where a matrix has a few thousand numbers

A = TypeVar("A", bound=Artifact)
SAYS = {"bad": ["dull", "poor", "weak", "sad"], "fair": ["plain", "usual", "mild"], "good": ["fine", "bright", "warm"]}
FILLER = ["the", "film", "was", "a", "story", "and", "its", "end", "of", "two", "hours"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *FILLER, *(w for words in SAYS.values() for w in words)]
CONTEXT = 40


def write_base(folder: Path, seed: int = 0) -> Path:
    """A folder in the Hugging Face layout, with random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    config = transformers.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng(), network.quiet():
        torch.manual_seed(seed)
        transformers.BertModel(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def frame(rows: int = 240, labels: Sequence[str] = tuple(SAYS), seed: int = 0) -> pl.DataFrame:
    """Sentences of 3 to 30 words, one of which says the label; a quarter is held out; two domains."""
    chance = random.Random(seed)
    made = []
    for i in range(rows):
        label = labels[i % len(labels)]
        words = chance.choices(FILLER, k=chance.randint(2, 29))
        words.insert(chance.randint(0, len(words)), chance.choice(SAYS[label]))
        made.append(
            {
                "id": f"row-{i:04d}",
                "text": " ".join(words),
                "label": label,
                "split": "test" if i % 4 == 3 else "train",
                "contributor": f"author-{i % 7}",
                "domain": "films" if i % 3 else "books",
            }
        )
    return pl.DataFrame(made)


class Bench:
    """A store in a folder, and steps run on what is in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = ArtifactStore(folder / "artifacts", open_database(f"sqlite:///{folder / 'events.db'}"))

    def base(self, seed: int = 0) -> Model:
        """The untrained model as an artefact."""
        return self.model(write_base(self.folder / "base", seed), format="safetensors")

    def model(self, folder: Path, **facts: Any) -> Model:
        """A folder as a model."""
        return self.store.add(Model, folder, parents=[], facts=facts)

    def examples(self, rows: pl.DataFrame | None = None) -> Dataset:
        """Rows as a dataset; ``frame()`` by default."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        datasets.write(frame() if rows is None else rows, folder)
        return self.store.add(Dataset, folder, parents=[], facts={})

    def run(self, verb: str, kind: type[A], settings: dict[str, Any] | None = None, **inputs: Any) -> A:
        """Run one step as the product does."""
        step = STEPS[verb]
        outcome = run_step(self.store, step, step.settings(**(settings or {})), inputs, name=verb)
        assert isinstance(outcome.artifact, kind)
        return outcome.artifact


QUICK = {"epochs": 12, "learning_rate": 5e-3, "batch_tokens": 512, "context": CONTEXT, "freeze_embeddings": False}
