"""Answers of a causal language model, written word piece by word piece by transformers' own ``generate``."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from feilun.models.causal import Causal
from feilun.models.chat import Message

BATCH = 16  # answers that are written side by side
TOKENS = 128  # of an answer, where the model does not say


class Writing:
    """A causal model as an engine. How it writes travels with the model (``Causal.decided``): ``answer_tokens``,
    ``sampling`` (0: always the most probable piece; else a temperature) and ``top_p``."""

    head = "words"
    labels: tuple[str, ...] = ()

    def __init__(self, network: Causal, seed: int = 0) -> None:
        self.network = network
        self.tokenizer = network.tokenizer
        self.context = network.context
        self.seed = seed

    def encode(self, conversations: Sequence[Sequence[Message]]) -> list[list[int]]:
        """Token ids of conversations that wait for an answer: those that training saw (``Causal.prompts``)."""
        return self.network.prompts(conversations)

    def unread(self, prompt: Sequence[int]) -> int:
        """How many pieces at the beginning of a prompt the model cannot read.

        None as long as the prompt and one piece of an answer find a position: what was learned whole is read whole.
        Beyond, room is made for an answer, but never more than half of the positions.
        """
        positions = self.network.positions
        return len(prompt) - max(positions - self.most, positions // 2) if len(prompt) >= positions else 0

    @property
    def most(self) -> int:
        """The most pieces of an answer."""
        return int(self.network.decided.get("answer_tokens", TOKENS))

    @torch.inference_mode()
    def write(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """The pieces of each answer, without the one that ends it. Sampling depends on ``seed`` and the order only.

        A prompt loses what of it is ``unread``; an answer has at most the positions that its prompt leaves.
        """
        read = [list(prompt)[self.unread(prompt) :] for prompt in prompts]
        order = sorted(range(len(read)), key=lambda i: len(read[i]))
        written: list[list[int]] = [[] for _ in prompts]
        positions = self.network.positions
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            for most, group in itertools.groupby(order, lambda i: min(self.most, positions - len(read[i]))):
                alike = list(group)
                for chosen in (alike[at : at + BATCH] for at in range(0, len(alike), BATCH)):
                    for i, answer in zip(chosen, self._write([read[i] for i in chosen], most), strict=True):
                        written[i] = answer
        return written

    def answers(self, conversations: Sequence[Sequence[Message]]) -> list[str]:
        """What is said next in each conversation."""
        return self.texts(self.write(self.encode(conversations)))

    def texts(self, written: Sequence[Sequence[int]]) -> list[str]:
        """What pieces of answers say."""
        said = self.tokenizer.decode_batch([list(pieces) for pieces in written], skip_special_tokens=True)
        return [text.strip() for text in said]

    def _write(self, rows: Sequence[Sequence[int]], most: int) -> list[list[int]]:
        width = max(map(len, rows))
        stops = sorted(self.network.stops)
        pad = stops[0] if stops else 0
        device = self.network.embeddings.weight.device
        ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows], device=device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
        found: Tensor = self.network.encoder.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=most, pad_token_id=pad, **self._manner(stops)
        )
        return [_until(row, stops) for row in found[:, width:].tolist()]

    def _manner(self, stops: list[int]) -> dict[str, Any]:
        heat = float(self.network.decided.get("sampling", 0.0))
        told: dict[str, Any] = {"do_sample": heat > 0, "eos_token_id": stops or None}
        if heat > 0:
            told |= {"temperature": heat, "top_p": float(self.network.decided.get("top_p", 1.0)), "top_k": 0}
        return told


def _until(row: list[int], stops: Sequence[int]) -> list[int]:
    end = next((i for i, token in enumerate(row) if token in stops), len(row))
    return row[:end]
