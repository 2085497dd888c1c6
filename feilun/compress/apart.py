"""A tuned model without its base: many of them share one in the gateway (``feilun.models.shared``).

That holds what the method changed and nothing else, so it is proved here, weight by weight, that the tuned encoder is
the base plus LoRA's changes. The base becomes an artefact of its own, the same for all that were tuned from it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from sqlalchemy import select
from torch import Tensor, nn

from feilun.compress import quantise
from feilun.errors import ArtifactError, StepError
from feilun.models import apart, deltas, shared, tokens
from feilun.models import network as networks
from feilun.models.adapting import adapted
from feilun.pipeline.kinds import Model
from feilun.store import tables
from feilun.store.artifacts import canonical

if TYPE_CHECKING:
    from feilun.compress.settings import CompressSettings
    from feilun.models.network import Network
    from feilun.pipeline.steps import Workspace

RECIPE = 1  # raised whenever the same base would become another graph
CLOSE = 1e-4  # of a matrix's largest weight: what merging in 32 bits may round
NOT_APART = 'method = "lora" or "head" in [finetune], or compress without apart'


class _States(nn.Module):
    """What is exported of a base: its states (N, L, H), and their mean under the mask (N, H)."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        states = self.network.states(ids, mask)
        weight = mask.unsqueeze(-1).to(states.dtype)
        return states, (states * weight).sum(1) / weight.sum(1).clamp(min=1)


def keep_apart(model: Model, settings: CompressSettings, work: Workspace) -> Model:
    """Write what a tuned model is beside its base, and return the base that it needs, exported.

    Raises:
        StepError: its method changed weights that others would share, or its base is not there.
    """
    if settings.quantise == "int8-static":
        raise StepError(
            "a base that models share cannot be calibrated for one of them", where="quantise", hint='quantise = "int8"'
        )
    tuned = networks.load(model.path)
    if tuned.adapted is not None:
        raise _refused(model, f"the method '{tuned.adapted.method}' changes more than linear modules")
    context = tokens.context_of(tuned.tokenizer)
    changes = _changes(model)
    origin = _origin(model, tuned, changes, work)
    told = tokens.told(model.path)
    kept = {"task": model.facts["task"], "head": tuned.head.name, "context": context}
    kept |= {"decided": told["decided"]} if told.get("decided") else {}
    labels = {"id2label": {str(i): label for i, label in enumerate(tuned.labels)}}
    model_type = {"model_type": tokens.configuration(model.path).get("model_type", "")}
    (work.folder / "config.json").write_bytes(canonical(model_type | labels | {"feilun": kept}))
    if (model.path / apart.HEAD).exists():
        shutil.copyfile(model.path / apart.HEAD, work.folder / apart.HEAD)
    if changes is not None:
        shutil.copytree(model.path / apart.FOLDER, work.folder / apart.FOLDER)
    return export_base(origin, context, settings, work)


def _changes(model: Model) -> apart.Changes | None:
    if not (model.path / apart.FOLDER).is_dir():
        return None
    try:
        return apart.read_changes(model.path)
    except ArtifactError as error:
        raise _refused(model, error.what) from error


def _origin(model: Model, tuned: Network, changes: apart.Changes | None, work: Workspace) -> Model:
    """The model that this one was tuned from: with the changes it has the very same weights."""
    reasons, context = [], tokens.context_of(tuned.tokenizer)
    for digest in model.parents:
        parent = work.store.get(digest)
        if not isinstance(parent, Model) or parent.facts.get("format") != "safetensors":
            continue
        base = networks.load(parent.path, context)
        reason = _difference(base, tuned, changes) or _other_words(parent.path, model.path)
        if reason is None:
            return parent
        reasons.append(reason)
    raise _refused(model, reasons[0] if reasons else "the base that it was tuned from is not in the store")


def _difference(base: Network, tuned: Network, changes: apart.Changes | None) -> str | None:
    """Why the tuned encoder is not the base plus the changes; None where it is."""
    then, now = base.encoder.state_dict(), tuned.encoder.state_dict()
    if then.keys() != now.keys():
        return "it is of another shape than its base"
    if base.adapted is not None:
        return f"its base itself was tuned with '{base.adapted.method}'"
    left = set(changes.kind.modules) if changes else set()
    for name, before in then.items():
        module = name.removesuffix(".weight")
        expected, most = before, 0.0
        if changes and module in left:
            left.discard(module)
            expected = before + torch.from_numpy(changes.down[module] @ changes.up[module]).T
            most = CLOSE * float(expected.abs().max())
        if expected.shape != now[name].shape or float((expected - now[name]).abs().max()) > most:
            return f"its training changed '{name}', which all models of that base would share"
    return f"its adapter changes {min(left)}, which its base does not have" if left else None


def _other_words(base: Path, tuned: Path) -> str | None:
    """Why the tokenizers differ in more than where they cut."""
    said = [json.loads((folder / "tokenizer.json").read_bytes()) for folder in (base, tuned)]
    parts: list[Mapping[str, Any]] = [
        {k: v for k, v in tokenizer.items() if k not in ("truncation", "padding")} for tokenizer in said
    ]
    return None if parts[0] == parts[1] else "it has another tokenizer than its base"


def export_base(origin: Model, context: int, settings: CompressSettings, work: Workspace) -> Model:
    """A base as a graph with names, of which there is one for all that are tuned from it: found, or made now."""
    facts = {"format": shared.BASE, "quantise": settings.quantise, "recipe": RECIPE}
    known = tables.artifacts.c
    query = select(known.digest, known.facts).join(tables.parents, tables.parents.c.child == known.digest)
    with work.store.database.read() as connection:
        rows = connection.execute(query.where(tables.parents.c.parent == origin.digest)).all()
    for row in rows:
        if json.loads(row.facts).items() >= facts.items():
            found = work.store.get(row.digest)
            if isinstance(found, Model):
                return work.store.verify(found)
    folder = work.scratch / "base"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    network = networks.load(origin.path, context)
    positions = network.positions  # of all models of this base, whatever they read
    _save(network, settings, folder)
    network.tokenizer.enable_truncation(positions)
    network.tokenizer.save(str(folder / "tokenizer.json"))
    shutil.copyfile(origin.path / "config.json", folder / "config.json")
    return work.store.add(Model, folder, parents=[origin.digest], facts=facts | {"context": positions})


def _save(network: Network, settings: CompressSettings, folder: Path) -> None:
    graph = quantise.convert(_States(network))
    if settings.quantise == "int8":
        graph = quantise.to_int8(graph)
    try:
        layers = network.layers
        modules = adapted.match(network.encoder, layers, adapted.linear_names(network.encoder, layers))
    except ArtifactError:
        modules = {}  # its layers share their weights: heads alone can be kept apart from it
    names = {}
    for name in modules:
        inside = f".encoder.{name}/"
        found = [op.get_friendly_name() for op in graph.get_ops() if op.get_type_name() == "MatMul"]
        mine = [one for one in found if inside in one]
        if len(mine) == 1:
            names[mine[0]] = deltas.LINEAR + name
    quantise.save(graph, folder, names)


def _refused(model: Model, why: str) -> StepError:
    return StepError(f"the model cannot be kept apart from its base: {why}", where=model.short, hint=NOT_APART)
