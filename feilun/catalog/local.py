"""Files and folders on this machine: which of them are rows or a model, and what they are."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from feilun.catalog.entries import names
from feilun.errors import ProjectError, did_you_mean
from feilun.store.artifacts import sha256_file

FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".txt": "lines",
    ".conll": "conll",
    ".bio": "conll",
}
SOURCE_PATTERNS = tuple(f"*{suffix}" for suffix in FORMATS)
ADAPTER = "adapter"  # the folder in a model's with what a method of fine-tuning put in, in peft's format
CARD = "README.md"  # of a model on the hub; it is read, not taken
MODEL_PATTERNS = ("*.safetensors", "*.json", "*.jinja", "*.txt", CARD)
CARD_LIMIT = 100_000  # characters of a card that are looked at
_MODEL_SUFFIXES = (".safetensors", ".json", ".jinja", ".txt", ".gguf", ".xml")
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_ONNX = ".onnx"


def find(path: str, root: Path) -> Path:
    """The file or folder at ``path``, relative to the project.

    Raises:
        ProjectError: there is none, or it cannot be a path.
    """
    if "\0" in path or not path.strip():
        raise ProjectError("not a path", where=repr(path[:80]))
    found = root / Path(path).expanduser()
    try:
        if found.exists():
            return found
    except OSError as error:  # a name that is too long
        raise ProjectError(f"not a path: {error.strerror}", where=path[:120]) from error
    hint = None
    if path in names():
        hint = f"did you mean 'catalog:{path}'?"
    elif found.parent.is_dir():
        hint = did_you_mean(found.name, [file.name for file in found.parent.iterdir()])
    raise ProjectError(f"there is no file or folder '{path[:120]}'", where=str(root), hint=hint)


def fingerprint(place: Path) -> list[str]:
    """Names and sha256 of the file, or of what a model folder would give and of the card that says its licence."""
    tabular = _tabular(place)
    if tabular:
        return [part for name, file in tabular.items() for part in (name, sha256_file(file))]
    files = [place] if place.is_file() else [*_model_files(place), *place.glob(CARD)]
    return [part for file in files for part in (_name(file, place), sha256_file(file))]


def only_file(folder: Path) -> Path:
    """The one file of rows in a folder.

    Raises:
        ProjectError: there is none, or several.
    """
    found = sorted(file for file in folder.rglob("*") if file.is_file() and file.suffix in FORMATS)
    if len(found) == 1:
        return found[0]
    listed = ", ".join(str(file.relative_to(folder)) for file in found[:6])
    hint = f"name one of {listed}" if found else f"known: {', '.join(FORMATS)}"
    raise ProjectError(f"a source is one file; there are {len(found)} here", where=str(folder), hint=hint)


def take(place: Path, kind: str, files: Path) -> dict[str, Any]:
    """Copy a source's file or a model's files into the folder ``files`` and say what they are.

    Raises:
        ProjectError: there is nothing of that kind at ``place``.
    """
    return _take_source(place, files) if kind == "source" else _take_model(place, files)


def check_suffix(name: str, where: str) -> str:
    """The format that a file's name tells.

    Raises:
        ProjectError: it tells none.
    """
    suffix = Path(name).suffix.lower()
    if suffix not in FORMATS:
        hint = f"known: {', '.join(FORMATS)}"
        raise ProjectError(f"the format of '{name[-80:]}' is not known", where=where, hint=hint)
    return FORMATS[suffix]


def _take_source(place: Path, files: Path) -> dict[str, Any]:
    place = place if place.is_file() else only_file(place)
    form = check_suffix(place.name, str(place))
    shutil.copyfile(place, files / f"rows{place.suffix.lower()}")
    return {"format": form, "columns": ["text"]} if form == "lines" else {"format": form}


def _take_model(place: Path, files: Path) -> dict[str, Any]:
    tabular = _tabular(place)
    if tabular:
        for name, file in tabular.items():
            shutil.copyfile(file, files / name)
        return {"format": "onnx", "task": "predict"}
    if place.is_file() and place.suffix != ".gguf":
        raise ProjectError("a model is a folder", where=str(place), hint=f"write {place.parent}")
    found = [place] if place.is_file() else _model_files(place)
    suffixes = {file.suffix for file in found}
    if ".safetensors" in suffixes and "config.json" in {file.name for file in found}:
        form = "safetensors"
    elif ".xml" in suffixes:
        form = "openvino"
    elif ".gguf" in suffixes:
        form = "gguf"
    else:
        pickled = place.is_dir() and any(file.suffix in _PICKLED for file in place.iterdir())
        hint = (
            "its weights are pickles, which are never loaded: save it with save_pretrained first" if pickled else None
        )
        raise ProjectError(
            "there is no model here: config.json and *.safetensors are needed", where=str(place), hint=hint
        )
    for file in found:
        taken = files / _name(file, place)
        taken.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, taken)
    return {"format": form, **_declared(files, place.parent / CARD if place.is_file() else place / CARD)}


def _model_files(folder: Path) -> list[Path]:
    """The folder's own files that may belong to a model, and the adapter beside its weights; pickles and other
    subfolders are left where they are."""
    graphs = {file.with_suffix(".bin") for file in folder.glob("*.xml")}
    listed = sorted(file for file in folder.iterdir() if file.is_file())
    adapter = [folder / ADAPTER / name for name in ("adapter_config.json", "adapter_model.safetensors")]
    own = [file for file in listed if file.suffix in _MODEL_SUFFIXES or file in graphs]
    return own + [file for file in adapter if file.is_file()]


def _tabular(place: Path) -> dict[str, Path]:
    """The files of a model of named columns, by what they are called in the store; none if it is another model.

    What a graph does not say of its columns and classes stands beside it: of ``churn.onnx`` in ``churn.json``, of a
    folder's only graph in ``config.json`` (see ``feilun.models.tabular``).
    """
    if place.is_file():
        graph, said = place, place.with_suffix(".json")
        if place.suffix != _ONNX:
            return {}
    else:
        weights = [file for file in place.iterdir() if file.suffix in (".safetensors", ".xml", ".gguf", _ONNX)]
        if len(weights) != 1 or weights[0].suffix != _ONNX:
            return {}
        graph, said = weights[0], place / "config.json"
    return {"model.onnx": graph} | ({"config.json": said} if said.is_file() else {})


def _name(file: Path, place: Path) -> str:
    """What a file is called in the model: its name, or ``adapter/`` and its name."""
    return file.name if file.parent in (place, place.parent) else f"{file.parent.name}/{file.name}"


def _declared(files: Path, card: Path) -> dict[str, Any]:
    """What a model says of itself: its licence, in config.json or in the hub's card; of ours also task and labels."""
    try:
        config = json.loads((files / "config.json").read_bytes())
    except (OSError, ValueError):
        config = {}
    if not isinstance(config, dict):
        return {}
    licence = config["license"] if isinstance(config.get("license"), str) else _licence(card)
    return ({"licence": licence} if licence else {}) | _tuned(config)


def _licence(card: Path) -> str | None:
    """The line ``license:`` of the YAML that the card begins with."""
    try:
        text = card.read_text("utf-8", errors="replace")[:CARD_LIMIT]
    except OSError:
        return None
    front = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", text, re.DOTALL)
    found = (
        re.search(r"^license:[ \t]*['\"]?([A-Za-z0-9][A-Za-z0-9. +-]{0,60})['\"]?[ \t]*$", front[1], re.M)
        if front
        else None
    )
    return found[1].strip() if found else None


def _tuned(config: dict[str, Any]) -> dict[str, Any]:
    """Task and labels of a model that ``feilun export`` wrote, so that it answers as it comes."""
    ours, names = config.get("feilun"), config.get("id2label")
    task = ours.get("task") if isinstance(ours, dict) else None
    if not isinstance(task, str):
        return {}
    count = len(names) if isinstance(names, dict) else 0
    labels = [names.get(str(i)) for i in range(count)] if isinstance(names, dict) else []
    return {"task": task, "labels": labels} if all(isinstance(n, str) for n in labels) else {"task": task}
