"""LoRA (Hu et al. 2021, arXiv 2106.09685) with rsLoRA (2312.03732) and DoRA (2402.09353), by peft.

A matrix W becomes W + s B A with A (rank, in), B (out, rank) trained and W not. Merged it costs nothing to serve. What
is written beside the merged weights is the adapter for the base as it was: other loaders need the base and these files.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import peft
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from feilun.errors import SettingError
from feilun.models.adapting import adapted
from feilun.models.adapting.options import MethodOptions

MUTATING = ("pissa", "olora")  # these starts take their part out of W: what is written gives it back
NAMES = {"zero": True, "gaussian": "gaussian", "orthogonal": "orthogonal", "pissa": "pissa", "olora": "olora"}


class LowRank:
    """LoRA in a model (see ``adapted.Adapted``)."""

    method = "lora"
    outside: nn.Module | None = None
    tokens = 0

    def __init__(self, wrapped: Any, start: dict[str, Tensor]) -> None:
        self._wrapped = wrapped  # peft's wrapper around the model
        self._start = start  # A and B before the training, where W gave them away
        self._files: tuple[dict[str, Any], dict[str, Tensor]] | None = None

    def parameters(self) -> list[nn.Parameter]:
        """A and B, and DoRA's lengths."""
        return [p for name, p in self._wrapped.named_parameters() if ".lora_" in name]

    def fold(self) -> bool:
        """Merge; from then on the model is as it was before, with other weights."""
        if self._files is None:
            self._files = self.files()
            self._wrapped.merge_and_unload(safe_merge=True)
        return True

    def states(self, ids: Tensor, mask: Tensor) -> Tensor | None:
        """Nothing of its own: the model's modules have been replaced."""
        return None

    def set_aside(self, aside: bool) -> None:
        """Nothing to do for what is folded; before that it would be lost."""
        if self._files is None:
            raise ValueError("LoRA is folded in before the model is written")

    def files(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Configuration and tensors as peft writes them, for the base as it was before the adaptation."""
        if self._files is not None:
            return self._files
        tensors = {name: t.detach().clone() for name, t in tensors_of(self._wrapped).items()}
        configuration = describe(self._wrapped)
        if self._start:
            # s (B A - B0 A0) = s [B, -B0] [A; A0]: twice the rank, the same s
            for name, first in self._start.items():
                down = ".lora_A." in name
                given_back = (first if down else -first).to(tensors[name].device)
                tensors[name] = torch.cat([tensors[name], given_back], dim=0 if down else 1)
            configuration["r"] *= 2
            configuration["lora_alpha"] *= 2**0.5 if configuration["use_rslora"] else 2
            configuration["init_lora_weights"] = True
        return configuration, tensors


def put(model: nn.Module, layers: nn.ModuleList, options: MethodOptions, seed: int, task_type: str) -> LowRank:
    """Freeze the model and give its linear modules low-rank changes.

    Raises:
        SettingError: a target that no module has, or settings that do not go together.
    """
    if options.dora and options.init in MUTATING:
        raise SettingError(f"dora does not go with init = '{options.init}'", where="init", hint='init = "zero"')
    if options.init == "orthogonal" and options.rank % 2:
        raise SettingError("init = 'orthogonal' needs an even rank", where="rank", hint=f"rank = {options.rank + 1}")
    names = adapted.linear_names(model, layers)
    if not names:
        raise SettingError("the model's layers have no linear modules", where="method", hint='method = "full"')
    configuration = peft.LoraConfig(
        task_type=task_type,
        r=options.rank,
        lora_alpha=options.alpha,
        target_modules=adapted.chosen_names(options.targets, names) if options.targets else names,
        use_rslora=options.rslora,
        use_dora=options.dora,
        init_lora_weights=NAMES[options.init],
    )
    with adapted.seeded(seed), quiet():
        wrapped = peft.get_peft_model(model, configuration)
    for module in wrapped.modules():
        if isinstance(module, LoraLayer) and module.get_base_layer().weight.dtype == torch.float32:
            module.cast_input_dtype_enabled = False  # under autocast it would cast bfloat16 up, only to cast it down
    start = tensors_of(wrapped) if options.init in MUTATING else {}
    return LowRank(wrapped, {name: tensor.detach().clone() for name, tensor in start.items()})


def tensors_of(wrapped: Any) -> dict[str, Tensor]:
    """The adapter's tensors under the names that they have in peft's files."""
    found: dict[str, Tensor] = peft.get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    return found


def is_backed(configuration: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bool:
    """Whether all ranks of a configuration are ranks that its weights have: nothing larger is built only to be refused.

    >>> is_backed({"r": 10**7}, {"a.lora_A.weight": torch.zeros(2, 32)})
    False
    """
    pattern = configuration.get("rank_pattern") or {}
    if not isinstance(pattern, dict):
        return False
    ranks = [configuration.get("r"), *pattern.values()]
    downs = [t for name, t in tensors.items() if (".lora_A" in name or ".lora_embedding_A" in name) and t.ndim]
    most = max((len(tensor) for tensor in downs), default=0)
    return all(isinstance(rank, int) and 0 < rank <= most for rank in ranks)


def describe(wrapped: Any) -> dict[str, Any]:
    """The adapter's configuration as peft writes it, without the path that the base happened to have."""
    configuration: dict[str, Any] = wrapped.peft_config["default"].to_dict()
    return configuration | {"inference_mode": True, "base_model_name_or_path": None}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without peft's warning that transformers will rename a property that peft asks for."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")
        yield
