"""Tokens that are learned: prompt tuning (Lester et al. 2021, arXiv 2104.08691) and prefix tuning (Li and Liang 2021,
arXiv 2101.00190), by peft.

prompt: vectors that stand before a text's own; prefix: keys and values that every layer sees beside its own. Neither
can be merged into weights, so they are written beside the base's and belong to the network from then on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import peft
import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache, DynamicLayer

from feilun.errors import SettingError
from feilun.models.adapting import adapted
from feilun.models.adapting.low_rank import describe, quiet, tensors_of
from feilun.models.adapting.options import MethodOptions

TYPES = {"PROMPT_TUNING": "prompt", "PREFIX_TUNING": "prefix"}


class Prompts:
    """Learned tokens before every text (see ``adapted.Adapted``)."""

    def __init__(self, wrapped: Any) -> None:
        self._wrapped = wrapped  # peft's wrapper around the model
        self.method = TYPES[wrapped.peft_config["default"].peft_type.value]
        self.outside: nn.Module | None = wrapped.prompt_encoder
        self.tokens = int(wrapped.peft_config["default"].num_virtual_tokens)

    def parameters(self) -> list[nn.Parameter]:
        """The learned tokens."""
        return list(self._wrapped.prompt_encoder.parameters())

    def fold(self) -> bool:
        """They are no change of weights."""
        return False

    def states(self, ids: Tensor, mask: Tensor) -> Tensor | None:
        """The states of the text's own tokens, (N, L, H)."""
        if self.method == "prompt":
            found: Tensor = self._wrapped(input_ids=ids, attention_mask=mask).last_hidden_state
            return found[:, self.tokens :]
        # shape, not len(): what is exported is not to be for this number of rows alone
        seen = torch.cat([mask.new_ones(ids.shape[0], self.tokens), mask], 1)
        model = self._wrapped.get_base_model()
        states: Tensor = model(
            input_ids=ids, attention_mask=seen, past_key_values=self._cache(ids.shape[0])
        ).last_hidden_state
        return states

    def _cache(self, count: int) -> DynamicCache:
        """What peft hands to a model, but filled at once: a tensor that grows from nothing cannot be exported."""
        about = self._wrapped.peft_config["default"]
        heads = about.num_attention_heads
        numbers = self._wrapped.prompt_encoder["default"].embedding.weight
        shaped = numbers.view(self.tokens, 2 * about.num_layers, heads, about.token_dim // heads)
        spread = shaped.permute(1, 2, 0, 3).unsqueeze(1).expand(-1, count, -1, -1, -1)
        cache = DynamicCache()
        for key, value in zip(spread[0::2], spread[1::2], strict=True):
            layer = DynamicLayer()
            layer.lazy_initialization(key, value)
            layer.keys, layer.values = key, value
            cache.layers.append(layer)
        return cache

    def set_aside(self, aside: bool) -> None:
        """They stand outside of the model as it is."""

    def files(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Configuration and tensors as peft writes them."""
        return describe(self._wrapped), tensors_of(self._wrapped)


def is_backed(configuration: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bool:
    """Whether a configuration describes as many learned numbers as its weights are.

    >>> told = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 16, "token_dim": 32}
    >>> is_backed(told, {"prompt_embeddings": torch.zeros(16, 32)})
    True
    >>> is_backed(told | {"num_virtual_tokens": 10**9}, {"prompt_embeddings": torch.zeros(16, 32)})
    False
    """
    learned = tensors.get("prompt_embeddings")
    if learned is None or learned.ndim != 2:
        return False
    width: Any = configuration.get("token_dim")
    if configuration.get("peft_type") == "PREFIX_TUNING":
        depth = configuration.get("num_layers")
        width = 2 * width * depth if isinstance(width, int) and isinstance(depth, int) else None
    submodules = configuration.get("num_transformer_submodules")
    shape = [configuration.get("num_virtual_tokens"), width]
    return shape == list(learned.shape) and submodules in (None, 1)


def put(model: Any, method: str, options: MethodOptions, seed: int, task_type: str) -> Prompts:
    """Freeze the model and put learned tokens before what it reads.

    Raises:
        SettingError: more tokens than the model has positions, or it takes no keys and values from outside.
    """
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is not None and options.virtual_tokens >= positions:
        raise SettingError(
            f"{options.virtual_tokens} learned tokens leave no room: the base has {positions} positions",
            where="virtual_tokens",
        )
    kind = peft.PromptTuningConfig if method == "prompt" else peft.PrefixTuningConfig
    # rows of the vocabulary are a better start than noise (Lester et al., 3.2)
    start = {"prompt_tuning_init": "SAMPLE_VOCAB"} if method == "prompt" else {}
    configuration = kind(task_type=task_type, num_virtual_tokens=options.virtual_tokens, **start)
    with adapted.seeded(seed), quiet():
        made = Prompts(peft.get_peft_model(model, configuration))
        if method == "prefix":
            # small keys and values: each layer starts nearly as it was
            torch.nn.init.normal_(made._wrapped.prompt_encoder["default"].embedding.weight, std=0.02)
    return made
