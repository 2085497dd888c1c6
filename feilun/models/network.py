"""The network that is trained: an encoder and a head (``feilun.models.heads``).

On disk it is a folder in the Hugging Face layout (config.json, model.safetensors, tokenizer.json) that
``AutoModel.from_pretrained`` loads as it is, and ``head.safetensors`` beside it once there is a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from feilun.errors import ArtifactError
from feilun.models import building, fused, recurrent, tokens, weights
from feilun.models.adapting.adaptable import Adaptable
from feilun.models.heads import Head
from feilun.models.shapes import SHAPES

quiet = building.quiet


class Network(Adaptable):
    """Outputs of the head from ids and mask, both (N, L): (N, C), or (N, L, C) for a head of tokens.

    It stays in eval mode while it is trained: dropout slows the few epochs of a fine-tuning and showed no gain.
    """

    def __init__(self, encoder: Any, tokenizer: Tokenizer, labels: Sequence[str] = (), head: str = "label") -> None:
        super().__init__(encoder)
        self.tokenizer = tokenizer
        self.labels = tuple(labels)
        self.head = Head(head, encoder.config.hidden_size, len(self.labels))
        self.decided: dict[str, Any] = {}  # what a task chose after the training, for its answers: kept in config.json
        self.eval()

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Outputs of the head, float32."""
        outputs: Tensor = self.head(self.states(ids, mask), mask)
        return outputs

    def states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """What the encoder makes of ids and mask, (N, L, H)."""
        special = self.special_states(ids, mask)
        if special is not None:
            return special
        layers = fused.layers_of(self.encoder) if torch.is_autocast_enabled("cpu") else None
        if layers is not None:
            return fused.run(layers, self.encoder.embeddings(input_ids=ids), mask)
        states: Tensor = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        return states

    def scores(self, ids: Tensor, mask: Tensor) -> Tensor:
        """What the network answers: probabilities, plain numbers or unit vectors, as the head has it."""
        return self.head.scores(self(ids, mask))

    @property
    def embeddings(self) -> nn.Module:
        """What turns ids into vectors, with positions and normalisation where the encoder keeps them together."""
        module: nn.Module = getattr(self.encoder, "embeddings", None) or self.encoder.get_input_embeddings()
        return module

    def relabel(self, labels: Sequence[str], seed: int, head: str = "label") -> None:
        """Give the network this head; rows of labels that it knew are kept, the others start small and random."""
        new = Head(head, self.encoder.config.hidden_size, len(labels))
        if new.shape.scores != "unit":
            weight = torch.empty(new.weight.shape)
            nn.init.normal_(weight, std=0.02, generator=torch.Generator().manual_seed(seed))
            bias = torch.zeros(new.outputs)
            if head == self.head.name and not self.head.weight.is_meta:
                known = {label: row for row, label in enumerate(self.labels)}
                kept = [(i, known[label]) for i, label in enumerate(labels) if label in known]
                if new.shape.outputs:  # an output is not a label: all of them stay
                    kept = [(i, i) for i in range(new.outputs)]
                for row, old in kept:
                    weight[row], bias[row] = self.head.weight.data[old], self.head.bias.data[old]
                new.load_state_dict(dict(self.head.named_buffers()), strict=False)
            new.weight, new.bias = nn.Parameter(weight), nn.Parameter(bias)
        self.head, self.labels = new, tuple(labels)


class Answering:
    """A network as an engine (see ``inference.Engine``): float32, no gradients."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.head = network.head.name
        self.labels = network.labels
        self.tokenizer = network.tokenizer
        self.context = tokens.context_of(network.tokenizer)
        self.decided = network.decided

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text."""
        return tokens.encode(self.network.tokenizer, texts)

    def run(self, rows: tokens.Rows) -> NDArray[np.float32]:
        """Scores (N, C)."""
        return np.stack(self.outputs(rows)) if rows else np.zeros((0, len(self.labels)), np.float32)

    @torch.inference_mode()
    def outputs(self, rows: tokens.Rows) -> list[NDArray[np.float32]]:
        """Each row's scores: (C,), or (its tokens, C)."""

        def score(ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
            found: NDArray[np.float32] = self.network.scores(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
            return found

        return tokens.run_in_rectangles(rows, self.context, score)


def load(folder: Path, context: int | None = None) -> Network:
    """The network in a folder; one without a head has no labels (see ``Network.relabel``).

    Args:
        context: the most tokens to read of a text; the tokenizer's own by default.

    Raises:
        ArtifactError: a file is missing or damaged, weights are missing or of another shape, or have no finite value.
    """
    tokenizer = tokens.load_tokenizer(folder, context)
    encoder = _load_encoder(folder)
    if tokenizer.get_vocab_size() > encoder.config.vocab_size:
        raise ArtifactError(
            f"the tokenizer has {tokenizer.get_vocab_size()} tokens, the network {encoder.config.vocab_size}",
            where=str(folder),
            hint="they are not of the same model",
        )
    place = folder / "head.safetensors"
    name = tokens.load_head(folder)
    headless = not place.exists() and name != "vector"
    if not headless and name not in SHAPES:
        hint = f"known are {', '.join(SHAPES)}"
        raise ArtifactError(f"heads of the kind '{name}' are not known", where=str(folder / "config.json"), hint=hint)
    network = Network(encoder, tokenizer, *(() if headless else (tokens.load_labels(folder), name)))
    network.restore(folder)
    if headless:
        return network
    network.decided = tokens.load_decided(folder)
    if place.exists():
        try:
            network.head.load_state_dict(weights.read(place), assign=True)
        except RuntimeError as error:
            what = "the head does not fit the labels"
            raise ArtifactError(what, where=str(place), hint=str(error)[-200:]) from error
    return network


class Shape(Protocol):
    """What a network is to look like that starts from nothing."""

    architecture: Any
    width: int
    depth: int
    seed: int


def grow(folder: Path, shape: Shape, context: int) -> Network:
    """A recurrent network that knows nothing, with the tokenizer in a folder (see ``feilun.models.recurrent``).

    Raises:
        ArtifactError: see ``load``.
    """
    tokenizer = tokens.load_tokenizer(folder, context)
    encoder = recurrent.build(
        tokenizer.get_vocab_size(), shape.architecture, width=shape.width, depth=shape.depth, seed=shape.seed
    )
    network = Network(encoder, tokenizer)
    encoder.train()  # its dropout alone: from nothing, with few examples, it would learn them by heart
    return network


def save(network: Network, folder: Path, task: str = "classify") -> None:
    """Write the network to an empty folder, in the layout that ``load`` and ``AutoModel.from_pretrained`` read.

    What was put into the encoder goes into ``adapter/``, and, where that can be, is merged into the encoder for good.
    """
    config = network.encoder.config
    config.id2label = dict(enumerate(network.labels))
    config.label2id = {label: i for i, label in enumerate(network.labels)}
    config.feilun = {"task": task, "head": network.head.name} | (
        {"decided": network.decided} if network.decided else {}
    )
    with quiet(), network.plain(folder):
        network.encoder.save_pretrained(folder)
    building.check_saved(folder)
    if network.head.shape.scores != "unit":
        save_file({k: v.contiguous() for k, v in network.head.state_dict().items()}, folder / "head.safetensors")
    network.tokenizer.save(str(folder / "tokenizer.json"))


def _load_encoder(folder: Path) -> Any:
    held = weights.read(folder / "model.safetensors")  # whole and finite, before anything else looks at it
    # eager: PyTorch's fused attention is slower on the CPU in bfloat16 when gradients are needed
    model, found = building.build(transformers.AutoModel, folder, held, attention="eager")
    missing = [name for name in found["missing_keys"] if not name.startswith("pooler.")]
    if missing or found["mismatched_keys"]:
        names = ", ".join(str(n) for n in [*missing, *found["mismatched_keys"]][:3])
        raise ArtifactError(f"weights are missing or of another shape: {names}", where=str(folder))
    if hasattr(model, "pooler"):
        model.pooler = None  # the mean is taken instead
    return model
