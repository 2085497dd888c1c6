"""What every kind of adaptation can do, and how it lies on disk."""

from __future__ import annotations

import collections
import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from feilun.errors import ArtifactError, SettingError, did_you_mean
from feilun.models import weights

FOLDER = "adapter"  # beside the weights that it was made for, or that it was merged into
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."  # how peft begins the name of a module of the model that was adapted


class Adapted(Protocol):
    """What was put into a model.

    ``outside`` holds what is trained but is no module of the model; None: nothing. ``tokens``: how many of the model's
    positions it takes.
    """

    method: str
    outside: nn.Module | None
    tokens: int

    def parameters(self) -> Iterable[nn.Parameter]:
        """Its own."""

    def fold(self) -> bool:
        """Merge into the model's own weights, which answer the same from then on; False where that cannot be."""

    def states(self, ids: Tensor, mask: Tensor) -> Tensor | None:
        """The model's last states (N, L, H) of ids and mask (N, L), where it must be called in a way of its own."""

    def set_aside(self, aside: bool) -> None:
        """Take it out of the model, so that the model's weights have their own names again, or put it back."""

    def files(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What ``write`` writes: the configuration, and weights by name."""


def write(adapted: Adapted, folder: Path) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors``, in peft's format where it has one.

    The same adaptation is the same bytes: no paths, and sets in order.
    """
    folder.mkdir()
    configuration, tensors = adapted.files()
    written = json.dumps(configuration, indent=2, sort_keys=True, default=_plain)
    (folder / CONFIG).write_text(written + "\n", "utf-8")
    save_file({name: t.detach().contiguous() for name, t in tensors.items()}, folder / WEIGHTS, {"format": "pt"})


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What ``write`` or peft wrote.

    Raises:
        ArtifactError: a file is missing or damaged, or the weights are not safetensors or not finite.
    """
    place = folder / CONFIG
    try:
        configuration = json.loads(place.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError("the adapter's configuration cannot be read", where=str(place)) from error
    if not isinstance(configuration, dict):
        raise ArtifactError("the adapter's configuration cannot be read", where=str(place))
    return configuration, weights.read(folder / WEIGHTS)


def linear_names(model: nn.Module, layers: nn.ModuleList) -> list[str]:
    """The short names of the linear modules in the layers, sorted: no other module's name ends in one of them.

    A name is its last part alone where that is enough: ``q_proj``, but ``output.dense``.
    """
    inside = {name for layer in layers for name, module in layer.named_modules() if isinstance(module, nn.Linear)}
    held = {id(module) for layer in layers for module in layer.modules()}
    elsewhere = [name for name, module in model.named_modules() if id(module) not in held]
    taken = {name.rsplit(".", 1)[-1] for name in elsewhere} | {"dense"}  # a pooler, dropped here, has a dense, too
    times = collections.Counter(name.rsplit(".", 1)[-1] for name in inside)
    lasts = {name: name.rsplit(".", 1)[-1] for name in inside}
    return sorted({name if last in taken or times[last] > 1 else last for name, last in lasts.items()})


def chosen_names(targets: Sequence[str], names: Sequence[str]) -> list[str]:
    """The names that end in one of the targets.

    Raises:
        SettingError: a target that no name ends in.

    >>> chosen_names(["query", "dense"], ["attention.output.dense", "query", "value"])
    ['attention.output.dense', 'query']
    """
    for target in targets:
        if not any(_ends(name, target) for name in names):
            hint = did_you_mean(target, names) or f"there is {', '.join(names)}"
            raise SettingError(f"the model's layers have no linear module '{target}'", where="targets", hint=hint)
    return [name for name in names if any(_ends(name, target) for target in targets)]


def match(model: nn.Module, layers: nn.ModuleList, names: Sequence[str]) -> dict[str, nn.Linear]:
    """The linear modules of the layers whose names end in one of these, by their whole names."""
    held = {id(module) for layer in layers for module in layer.modules()}
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and id(module) in held and any(_ends(name, end) for end in names)
    }


def share(module: nn.Module) -> float:
    """The share of the weights that is trained, to six places."""
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    return round(trained / sum(p.numel() for p in module.parameters()), 6)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """What is drawn inside depends on the seed alone, and the random state is left as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _ends(name: str, end: str) -> bool:
    return name == end or name.endswith(f".{end}")


def _plain(value: Any) -> Any:
    if isinstance(value, set):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} does not go into JSON")
