"""A model as a folder that the Hugging Face hub and ``from_pretrained`` understand."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from feilun.errors import ConflictError
from feilun.models import card
from feilun.pipeline.kinds import Model
from feilun.store.artifacts import MANIFEST, ArtifactStore

SPECIAL = {  # what a tokenizer's special tokens are called, and how the settings name their part
    "pad_token": ("[PAD]", "<pad>"),
    "unk_token": ("[UNK]", "<unk>"),
    "cls_token": ("[CLS]", "<s>"),
    "sep_token": ("[SEP]", "</s>"),
    "mask_token": ("[MASK]", "<mask>"),
}


def export(store: ArtifactStore, model: Model, told: card.Told, to: Path) -> list[str]:
    """Copy a model's files to a new folder, with its card and what transformers needs beside them.

    The folder appears complete or not at all. Read back with ``base = "FOLDER"``, or by ``AutoModel.from_pretrained``.

    Returns:
        The names of the files, sorted.

    Raises:
        ConflictError: there is something at ``to`` already.
        ArtifactError: a file of the model is not what its digest says.
    """
    to = to.absolute()
    if to.is_symlink() or (to.exists() and (not to.is_dir() or any(to.iterdir()))):
        raise ConflictError("there is something there already", where=str(to), hint="name a new folder")
    store.verify(model)
    to.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{to.name}.", dir=to.parent) as own:  # of no one else, on the same disk
        partial = Path(own) / "model"
        shutil.copytree(model.path, partial, ignore=shutil.ignore_patterns(MANIFEST, card.FILE))
        _complete(store, partial, model, told)
        partial.rename(to)  # in the place of an empty folder, too
    return sorted(f.relative_to(to).as_posix() for f in to.rglob("*") if f.is_file())


def _complete(store: ArtifactStore, partial: Path, model: Model, told: card.Told) -> None:
    if (partial / "tokenizer.json").exists() and not (partial / "tokenizer_config.json").exists():
        settings = _tokenizer_settings(partial / "tokenizer.json")
        (partial / "tokenizer_config.json").write_text(
            json.dumps(settings, indent=2, ensure_ascii=False) + "\n", "utf-8"
        )
    if model.facts.get("format") == "safetensors" and _head(partial) == "vector":
        _sentence_layout(partial, int(model.facts.get("context") or 0))
    card.write(store, partial, told)


def _tokenizer_settings(place: Path) -> dict[str, Any]:
    """What ``AutoTokenizer`` has to be told so that it uses tokenizer.json as it is, and cuts where we cut."""
    read = json.loads(place.read_bytes())
    named = {token["content"] for token in read.get("added_tokens", [])} | set(_words(read))
    special = {key: next((w for w in ways if w in named), None) for key, ways in SPECIAL.items()}
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    settings |= {key: token for key, token in special.items() if token}
    length = (read.get("truncation") or {}).get("max_length")
    return settings | ({"model_max_length": length} if length else {})


def _words(read: dict[str, Any]) -> set[str]:
    vocabulary = read.get("model", {}).get("vocab", {})
    return set(vocabulary) if isinstance(vocabulary, dict) else {str(pair[0]) for pair in vocabulary}


def _head(folder: Path) -> str:
    return str(json.loads((folder / "config.json").read_bytes()).get("feilun", {}).get("head", ""))


def _sentence_layout(folder: Path, context: int) -> None:
    """The files by which sentence-transformers knows that a vector is the mean of the states, of length 1."""
    hidden = json.loads((folder / "config.json").read_bytes())["hidden_size"]
    parts = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(parts)
    ]
    pooling = {"word_embedding_dimension": hidden, "pooling_mode_mean_tokens": True}
    said = {"max_seq_length": context or None, "do_lower_case": False}
    for name, value in (
        ("modules.json", modules),
        ("1_Pooling/config.json", pooling),
        ("sentence_bert_config.json", said),
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(value, indent=2) + "\n", "utf-8")
