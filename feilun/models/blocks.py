"""Rows side by side in one batch, without padding: attention within each, and the loss only where it counts.

Plain arithmetic with derivatives written by hand: on a processor the passes over memory cost as much as the products,
so nothing is copied, widened or kept that the gradient does not need.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import AttentionInterface

NAME = "feilun_blocks"  # of the attention, among transformers' own
TILE = 128  # queries that are looked at together: a tile reads no key after its last query
LOGITS = 1 << 24  # logits that are held at a time


def install(encoder: Any) -> None:
    """Let a transformers model attend within rows when it is told their ``lengths``; else it works as ever."""
    encoder.config._attn_implementation = NAME


def attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **told: Any
) -> tuple[Tensor, None]:
    """transformers' interface of attention: q (1, A, T, D), k and v (1, K, T, D) to (1, T, A, D)."""
    lengths: Sequence[int] | None = told.pop("lengths", None)
    if lengths is None:
        found: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **told)
        return found
    scale = float(told.get("scaling") or query.shape[-1] ** -0.5)
    window = int(told.get("sliding_window") or 0)
    attention: Any = _Attention
    out: Tensor = attention.apply(query[0], key[0], value[0], (tuple(lengths), scale, window))
    return out.unsqueeze(0), None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)


class _Attention(torch.autograd.Function):
    """softmax(q k' scale) v of each row, keys up to the query's own position; heads of queries share heads of keys.

    Row by row and tile by tile; what is kept is the softmax, in the type of the products.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, told: tuple[tuple[int, ...], float, int]
    ) -> Tensor:
        lengths, scale, window = told
        heads, total, size = query.shape
        kinds = key.shape[0]
        query = query.to(value.dtype).view(kinds, heads // kinds, total, size)
        key = key.to(value.dtype)
        out = value.new_empty(total, kinds, heads // kinds, size)
        kept = []
        for start, first, last in _tiles(lengths):
            rows = query[:, :, first:last].reshape(kinds, -1, size)
            scores = _wide(torch.bmm(rows, key[:, start:last].transpose(1, 2))).mul_(scale)
            scores.view(kinds, -1, last - first, last - start).masked_fill_(
                _later(first - start, last - first, window, scores.device), float("-inf")
            )
            shares = scores.softmax(-1).to(value.dtype)
            kept.append(shares)
            found = torch.bmm(shares, value[:, start:last]).view(kinds, -1, last - first, size)
            out[first:last] = found.permute(2, 0, 1, 3)
        ctx.save_for_backward(query, key, value, *kept)
        ctx.lengths, ctx.scale = lengths, scale
        return out.view(total, heads, size)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *kept = ctx.saved_tensors
        kinds, group, total, size = query.shape
        gradient = gradient.to(value.dtype).view(total, kinds, group, size).permute(1, 2, 0, 3)
        to_query = torch.empty_like(query)
        to_key, to_value = torch.zeros_like(key), torch.zeros_like(value)
        for (start, first, last), shares in zip(_tiles(ctx.lengths), kept, strict=True):
            told = gradient[:, :, first:last].reshape(kinds, -1, size)
            rows = query[:, :, first:last].reshape(kinds, -1, size)
            to_value[:, start:last].baddbmm_(shares.transpose(1, 2), told)
            moved = _wide(torch.bmm(told, value[:, start:last].transpose(1, 2)))
            wide = _wide(shares)
            moved.sub_((moved * wide).sum(-1, keepdim=True)).mul_(wide).mul_(ctx.scale)
            narrow = moved.to(value.dtype)
            to_query[:, :, first:last] = torch.bmm(narrow, key[:, start:last]).view(kinds, group, -1, size)
            to_key[:, start:last].baddbmm_(narrow.transpose(1, 2), rows)
        return to_query.view(-1, total, size), to_key, to_value, None


def _tiles(lengths: Sequence[int]) -> list[tuple[int, int, int]]:
    """(start of the row, first query, after the last query) of each tile."""
    found, start = [], 0
    for length in lengths:
        for first in range(start, start + length, TILE):
            found.append((start, first, min(first + TILE, start + length)))
        start += length
    return found


def _later(before: int, queries: int, window: int, device: torch.device) -> Tensor:
    """(queries, keys): True where the key is after the query, or too long before it."""
    keys = torch.arange(before + queries, device=device)
    own = keys[before:, None]
    later = keys > own
    return later | (keys <= own - window) if window else later


def _wide(tensor: Tensor) -> Tensor:
    """At least float32: what is added up over many is not added up in bfloat16."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def surprise(states: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of ``states @ weight.T`` with ``targets``, (n,), float32; at most ``LOGITS`` logits at a time.

    Args:
        states: (n, H). weight: (V, H). targets: (n,).
    """
    if torch.is_autocast_enabled(states.device.type):
        states = states.to(torch.get_autocast_dtype(states.device.type))
    with torch.autocast(states.device.type, enabled=False):
        table: Any = _Surprise
        lost: Tensor = table.apply(states, weight, targets)
    return lost


class _Surprise(torch.autograd.Function):
    """The gradient with respect to the states is computed at once, while the logits are there."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        narrow = weight.to(states.dtype)
        chunk = max(1, LOGITS // len(weight))
        wide = torch.promote_types(states.dtype, torch.float32)
        lost, slopes = states.new_empty(len(states), dtype=wide), torch.empty_like(states)
        keeps = weight.requires_grad
        spread = []
        for at in range(0, len(states), chunk):
            part, right = slice(at, at + chunk), targets[at : at + chunk, None]
            logits = torch.mm(states[part], narrow.t())
            highest = logits.amax(-1, keepdim=True)
            own = logits.gather(1, right)
            logits.sub_(highest).exp_()
            total = logits.sum(-1, keepdim=True, dtype=wide)
            lost[part] = (total.log() + highest.to(wide) - own.to(wide)).squeeze(1)
            logits.div_(total.to(logits.dtype))
            slopes[part] = torch.mm(logits, narrow).sub_(narrow[right.squeeze(1)])
            if keeps:
                spread.append(logits.scatter_add_(1, right, logits.new_full(right.shape, -1)))
        ctx.save_for_backward(states, targets, slopes, *spread)
        ctx.chunk, ctx.like = chunk, weight
        return lost

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        states, _, slopes, *spread = ctx.saved_tensors
        gradient = gradient.unsqueeze(1)
        to_weight = None
        for number, part in enumerate(spread):
            rows = slice(number * ctx.chunk, (number + 1) * ctx.chunk)
            found = torch.mm(part.t(), states[rows] * gradient[rows].to(states.dtype))
            to_weight = found.to(ctx.like.dtype) if to_weight is None else to_weight.add_(found)
        return slopes * gradient.to(slopes.dtype), to_weight, None
