"""Answers written by transformers, plainly: the decoder that every faster one is compared with.

Each answer has a cache of its own and meets the same arithmetic whoever is answered beside it, in 32 bits. It takes its
time, needs torch, and is what a model that was never compressed is served by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from feilun.models import causal
from feilun.models.answers import Answer
from feilun.models.causal import Causal
from feilun.models.choosing import ABILITIES, Choosing
from feilun.models.desk import Advance, Desk, Speech, Work, own_work


@dataclass(eq=False)
class _Writing:
    """What is kept for one answer."""

    choosing: Choosing
    cache: Any
    unread: list[int]


class Reference(Desk):
    """A ``feilun.models.decoder.Decoder``."""

    def __init__(self, network: Causal, work: Work = own_work) -> None:
        speech = Speech(network.tokenizer, network.chat, network.stops, network.embeddings.weight.shape[0], ABILITIES)
        super().__init__(speech, network.positions, work)
        self.network = network
        self._writing: dict[Answer, _Writing] = {}

    def _begin(self, answer: Answer) -> None:
        cache = DynamicCache(config=self.network.encoder.config)
        self._writing[answer] = _Writing(Choosing(answer.manner, answer.form), cache, answer.prompt)

    @torch.inference_mode()
    def _step(self, answers: Sequence[Answer]) -> list[Advance]:
        advances = []
        for answer in answers:
            kept = self._writing[answer]
            wrote = kept.choosing.choose(self._logits(kept).numpy())
            advances.append(Advance(answer, [wrote], len(kept.unread)))
            kept.unread = [wrote.token]
        return advances

    def _logits(self, kept: _Writing) -> Tensor:
        """Of the next token, (V,)."""
        ids = torch.tensor([kept.unread], device=self.network.embeddings.weight.device)
        found: Tensor = self.network.encoder(
            input_ids=ids, past_key_values=kept.cache, use_cache=True, logits_to_keep=1
        ).logits
        return found[0, -1].float().cpu()

    def _end(self, answer: Answer) -> None:
        self._writing.pop(answer, None)


def load(folder: Path, work: Work = own_work) -> Reference:
    """The decoder of a causal model's folder, or of a GGUF file in it.

    Raises:
        ArtifactError: see ``feilun.models.causal.load``.
    """
    return Reference(causal.load(folder), work)
