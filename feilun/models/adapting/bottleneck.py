"""Bottleneck adapters (Houlsby et al. 2019, arXiv 1902.00751): a narrow network of two matrices after each block.

peft has no such thing, so the files have its two names and shapes but a type of their own, BOTTLENECK. They are not
linear, cannot be merged, and are written beside the base's weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from feilun.errors import SettingError
from feilun.models.adapting import adapted
from feilun.models.adapting.options import MethodOptions

TYPE = "BOTTLENECK"
# what a block of attention or of feed-forward ends with, in the families of encoders and decoders
LASTS = ("output.dense", "o_proj", "down_proj", "Wo", "out_lin", "lin2", "attn.dense", "dense_4h_to_h")


class Bottleneck(nn.Module):
    """What ``linear`` gives, plus a narrow function of that, (..., H): nothing at first, for ``up`` starts at zero."""

    def __init__(self, linear: nn.Linear, size: int) -> None:
        super().__init__()
        device = linear.weight.device
        self.linear = linear
        self.down = nn.Linear(linear.out_features, size, device=device)
        self.up = nn.Linear(size, linear.out_features, device=device)
        nn.init.normal_(self.down.weight, std=0.02)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., in) to (..., H)."""
        outputs: Tensor = self.linear(inputs)
        narrow = nn.functional.gelu(self.down(outputs))
        added: Tensor = self.up(narrow)
        return outputs + added.to(outputs.dtype)


class Bottlenecks:
    """Bottlenecks in a model (see ``adapted.Adapted``)."""

    method = "adapter"
    outside: nn.Module | None = None
    tokens = 0

    def __init__(self, model: nn.Module, linears: Mapping[str, nn.Linear], targets: Sequence[str], size: int) -> None:
        model.requires_grad_(False)
        self._model, self._targets, self._size = model, list(targets), size
        self._made = {name: Bottleneck(linear, size) for name, linear in linears.items()}
        self.set_aside(False)

    def parameters(self) -> list[nn.Parameter]:
        """Of every ``down`` and ``up``."""
        return [p for made in self._made.values() for part in (made.down, made.up) for p in part.parameters()]

    def fold(self) -> bool:
        """They are not linear."""
        return False

    def states(self, ids: Tensor, mask: Tensor) -> Tensor | None:
        """Nothing of its own: the model's modules have been replaced."""
        return None

    def set_aside(self, aside: bool) -> None:
        """Put the linear modules back into the model, or the bottlenecks around them."""
        for name, made in self._made.items():
            parent, _, last = name.rpartition(".")
            setattr(self._model.get_submodule(parent), last, made.linear if aside else made)

    def files(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Configuration and tensors."""
        tensors: dict[str, Tensor] = {
            f"{adapted.PREFIX}{name}.{part}": tensor
            for name, made in self._made.items()
            for part, tensor in made.named_parameters()
            if not part.startswith("linear.")
        }
        return {"peft_type": TYPE, "size": self._size, "target_modules": self._targets}, tensors

    def fill(self, tensors: Mapping[str, Tensor]) -> list[str]:
        """Take these tensors; the names of those that are missing, are too many or have another shape."""
        own = self.files()[1]
        wrong = {n for n in own.keys() | tensors.keys() if n not in own or n not in tensors}
        wrong |= {n for n in own.keys() & tensors.keys() if own[n].shape != tensors[n].shape}
        if not wrong:
            for name, tensor in own.items():
                tensor.data.copy_(tensors[name])
        return sorted(wrong)


def put(model: nn.Module, layers: nn.ModuleList, options: MethodOptions, seed: int) -> Bottlenecks:
    """Freeze the model and give its blocks bottlenecks.

    Raises:
        SettingError: a target that no module has, or no target is known for such a model.
    """
    names = adapted.linear_names(model, layers)
    targets = adapted.chosen_names(options.targets, names) if options.targets else [n for n in names if _is_last(n)]
    if not targets:
        hint = f"name the modules that end a block: targets = [...], of {', '.join(names)}"
        raise SettingError("where a block of this model ends is not known", where="targets", hint=hint)
    with adapted.seeded(seed):
        return Bottlenecks(model, adapted.match(model, layers, targets), targets, options.bottleneck)


def _is_last(name: str) -> bool:
    return any(name == last or name.endswith(f".{last}") for last in LASTS)
