"""LSTM and BiLSTM as encoders (Hochreiter and Schmidhuber 1997; Graves and Schmidhuber 2005): the comparison that says
what pretraining is worth. They are trained from nothing, with the tokenizer of a pretrained model.

They are transformers models, so a folder with one is loaded, saved and exported like any encoder; for others to load it
``import feilun.models.recurrent`` comes before ``AutoModel.from_pretrained``.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import transformers
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

Architecture = Literal["lstm", "bilstm"]
POSITIONS = 8192  # it could read on; a text's length has to end somewhere


class RecurrentConfig(transformers.PreTrainedConfig):
    """``hidden_size`` is what comes out: of a bidirectional one half from each direction."""

    model_type = "feilun-recurrent"

    def __init__(
        self,
        vocab_size: int = 2,
        hidden_size: int = 256,
        num_hidden_layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.3,
        **others: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.bidirectional = bidirectional
        self.dropout = dropout
        self.max_position_embeddings = POSITIONS
        others.pop("max_position_embeddings", None)
        super().__init__(**others)


class _Layer(nn.Module):
    """States (N, L, in) to (N, L, H), read from the left, and from the right as well."""

    def __init__(self, inputs: int, config: RecurrentConfig) -> None:
        super().__init__()
        width = config.hidden_size // 2 if config.bidirectional else config.hidden_size
        self.right = nn.LSTM(inputs, width, batch_first=True)
        self.left = nn.LSTM(inputs, width, batch_first=True) if config.bidirectional else None

    def forward(self, states: Tensor, turned: Tensor) -> Tensor:
        rightwards: Tensor = self.right(states)[0]
        if self.left is None:
            return rightwards
        leftwards: Tensor = self.left(_take(states, turned))[0]
        return torch.cat([rightwards, _take(leftwards, turned)], -1)


class Recurrent(transformers.PreTrainedModel):
    """An LSTM as transformers has encoders: ``last_hidden_state`` (N, L, H) from ids and mask (N, L)."""

    config_class = RecurrentConfig
    base_model_prefix = "recurrent"

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(_Layer(config.hidden_size, config) for _ in range(config.num_hidden_layers))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Everything keeps the start that torch gave it."""

    def get_input_embeddings(self) -> nn.Module:
        """What turns ids into vectors."""
        return self.embeddings

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **others: Any) -> BaseModelOutput:
        """Padding, at the end, changes nothing: the second direction starts at each text's own end."""
        count = torch.arange(input_ids.shape[1], device=input_ids.device)
        length = attention_mask.sum(1, keepdim=True)
        turned = torch.where(count < length, length - 1 - count, count)
        states = self._drop(self.embeddings(input_ids))
        for layer in self.layers:
            states = self._drop(layer(states, turned))
        return BaseModelOutput(last_hidden_state=states)

    def _drop(self, states: Tensor) -> Tensor:
        """Dropout of the same units in all tokens of a text (Gal and Ghahramani 2016), while it learns."""
        if not (self.training and torch.is_grad_enabled()):
            return states
        kept = torch.full_like(states[:, :1], 1 - self.config.dropout).bernoulli()
        dropped: Tensor = states * kept / (1 - self.config.dropout)
        return dropped


def build(vocabulary: int, architecture: Architecture, *, width: int, depth: int, seed: int) -> Recurrent:
    """One that knows nothing.

    Args:
        width: numbers in a state; of a BiLSTM each direction has half of them.
    """
    bidirectional = architecture == "bilstm"
    config = RecurrentConfig(vocabulary, width, depth, bidirectional)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Recurrent(config)


def _take(states: Tensor, order: Tensor) -> Tensor:
    return states.gather(1, order.unsqueeze(-1).expand(-1, -1, states.shape[-1]))


transformers.AutoConfig.register(RecurrentConfig.model_type, RecurrentConfig)
transformers.AutoModel.register(RecurrentConfig, Recurrent)
