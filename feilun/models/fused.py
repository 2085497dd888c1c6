"""BERT's layers as one autograd function each, in bfloat16 throughout.

Autocast converts every weight at each use, keeps the residual stream in float32, sums biases' gradients slowly and
leaves three products where one would do. Here a layer's forward and backward pass are written down once, and the
residual stream and the normalisations are bfloat16, too. That is not what autocast computes: the states differ from
float32's by 0.006 of their size where autocast's differ by 0.001. Weights and their gradients stay float32 outside, so
optimiser and checkpoint see nothing of it (mixed precision of Micikevicius et al. 2018, arXiv 1710.03740); what is
added up over all tokens is added up in float32 and rounded once. ``layers_of`` says which encoders can be run so: those
whose layers are BERT's, with plain linear modules; an adapter in place of one makes the encoder run its own forward.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_MASKED = -1e4  # added to the score of padding: e^-10000 is 0, and bfloat16 holds it


@dataclass(frozen=True)
class Layers:
    """The layers of one encoder: how many heads, the epsilon of the normalisations, and each layer's 16 parameters."""

    heads: int
    epsilon: float
    parameters: tuple[tuple[nn.Parameter, ...], ...]


def layers_of(encoder: nn.Module) -> Layers | None:
    """The parameters of a BERT encoder's layers in the order of ``_Layer``; None where it is not plain BERT."""
    config: Any = getattr(encoder, "config", None)
    if getattr(config, "model_type", None) != "bert" or config.hidden_act != "gelu" or config.is_decoder:
        return None
    found = []
    for layer in encoder.get_submodule("encoder.layer").children():
        parameters: list[nn.Parameter] = []
        for name, kind in _MODULES:
            module = layer.get_submodule(name)
            its = dict(module.named_parameters(recurse=False))
            if type(module) is not kind or its.keys() != {"weight", "bias"}:
                return None
            if any(type(p) is not nn.Parameter for p in its.values()):
                return None  # sharded (FSDP2): its parts come together only when the layer itself is called
            parameters += [its["weight"], its["bias"]]
        found.append(tuple(parameters))
    return Layers(config.num_attention_heads, config.layer_norm_eps, tuple(found))


def run(layers: Layers, states: Tensor, mask: Tensor) -> Tensor:
    """The last layer's states (N, L, H), bfloat16, from the embeddings (N, L, H) and the mask (N, L)."""
    bias = ((1 - mask) * _MASKED).to(torch.bfloat16)
    bias = bias[:, None, None, :].expand(-1, layers.heads, mask.shape[1], -1).reshape(-1, *[mask.shape[1]] * 2)
    states = states.to(torch.bfloat16)
    layer: Any = _Layer
    for parameters in layers.parameters:
        states = layer.apply(states, bias, (layers.heads, layers.epsilon), *parameters)
    return states


_MODULES: tuple[tuple[str, type[nn.Module]], ...] = (
    ("attention.self.query", nn.Linear),
    ("attention.self.key", nn.Linear),
    ("attention.self.value", nn.Linear),
    ("attention.output.dense", nn.Linear),
    ("attention.output.LayerNorm", nn.LayerNorm),
    ("intermediate.dense", nn.Linear),
    ("output.dense", nn.Linear),
    ("output.LayerNorm", nn.LayerNorm),
)


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor, shape: tuple[int, float], *p: Tensor) -> Tensor:
        (heads, eps), (n, length, width) = shape, x.shape
        x = x.reshape(-1, width)
        wqkv, bqkv = x.new_empty(3 * width, width), x.new_empty(3 * width)
        for i in range(3):
            wqkv[i * width : (i + 1) * width], bqkv[i * width : (i + 1) * width] = p[2 * i], p[2 * i + 1]
        wo, w1, w2, bo, b1, b2 = (t.to(torch.bfloat16) for t in (p[6], p[10], p[12], p[7], p[11], p[13]))
        g1, s1, g2, s2 = (t.to(torch.bfloat16) for t in (p[8], p[9], p[14], p[15]))
        qkv = torch.addmm(bqkv, x, wqkv.t()).view(n, length, 3, heads, width // heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).reshape(3, n * heads, length, width // heads)
        chances = torch.baddbmm(bias, q, k.transpose(1, 2), alpha=1 / math.sqrt(width // heads)).softmax(-1)
        mixed = torch.bmm(chances, v).view(n, heads, length, -1).transpose(1, 2).reshape(-1, width)
        first = torch.addmm(bo, mixed, wo.t()).add_(x)
        y, mean1, rstd1 = torch.native_layer_norm(first, (width,), g1, s1, eps)
        inner = torch.addmm(b1, y, w1.t())
        active = nn.functional.gelu(inner)
        second = torch.addmm(b2, active, w2.t()).add_(y)
        z, mean2, rstd2 = torch.native_layer_norm(second, (width,), g2, s2, eps)
        ctx.shape = (n, length, heads, width)
        ctx.save_for_backward(
            x, q, k, v, chances, mixed, first, mean1, rstd1, y, inner, active, second, mean2, rstd2,
            wqkv, wo, w1, w2, g1, s1, g2, s2,
        )  # fmt: skip
        return z.view(n, length, width)

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        n, length, heads, width = ctx.shape
        (x, q, k, v, chances, mixed, first, mean1, rstd1, y, inner, active, second, mean2, rstd2,
         wqkv, wo, w1, w2, g1, s1, g2, s2) = ctx.saved_tensors  # fmt: skip
        needs = ctx.needs_input_grad[3:]
        ones = x.new_ones(1, len(x))
        d2, dg2, ds2 = _norm_backward(given[0].reshape(-1, width), second, (mean2, rstd2), (g2, s2), any(needs[14:16]))
        inside = torch.ops.aten.gelu_backward(d2 @ w2, inner)
        dy = torch.addmm(d2, inside, w1)
        d1, dg1, ds1 = _norm_backward(dy, first, (mean1, rstd1), (g1, s1), any(needs[8:10]))
        dmixed = (d1 @ wo).view(n, length, heads, -1).transpose(1, 2).reshape(n * heads, length, -1)
        dqkv = x.new_empty(n, length, 3, heads, width // heads)
        dchances = torch.bmm(dmixed, v.transpose(1, 2))
        dscores = torch._softmax_backward_data(dchances, chances, -1, chances.dtype)
        dscores *= 1 / math.sqrt(width // heads)
        for at, gradient in enumerate(
            (torch.bmm(dscores, k), torch.bmm(dscores.transpose(1, 2), q), torch.bmm(chances.transpose(1, 2), dmixed))
        ):
            dqkv[:, :, at] = gradient.view(n, heads, length, -1).transpose(1, 2)
        flat = dqkv.view(-1, 3 * width)
        dx = torch.addmm(d1, flat, wqkv).view(n, length, width) if ctx.needs_input_grad[0] else None
        weights = (flat.t() @ x).float().chunk(3) if any(needs[0:6:2]) else (None,) * 3
        biases = (ones @ flat).float().view(-1).chunk(3)
        gradients = [gradient for pair in zip(weights, biases, strict=True) for gradient in pair]
        for at, output, taken in ((6, d1, mixed), (10, inside, y), (12, d2, active)):
            weight = (output.t() @ taken).float() if needs[at] else None
            gradients += [weight, (ones @ output).float().view(-1)]
            if at != 10:
                gradients += [dg1, ds1] if at == 6 else [dg2, ds2]
        return dx, None, None, *gradients


def _norm_backward(
    given: Tensor, x: Tensor, seen: tuple[Tensor, Tensor], weights: tuple[Tensor, Tensor], needed: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Gradients of what was normalised (T, H), of the weight and of the bias (H,), the last two where they are needed.

    The kernel adds those two up in bfloat16 and is 3 % off at 512 tokens, 8 % at 4096; products add up in float32.
    """
    mean, rstd = seen
    dx, _, _ = torch.ops.aten.native_layer_norm_backward(
        given, x, x.shape[1:], mean, rstd, *weights, (True, False, False)
    )
    if not needed:
        return dx, None, None
    rstd = rstd.view(1, -1)
    sums = (torch.cat([torch.ones_like(rstd), mean.view(1, -1) * rstd]) @ given).float()
    return dx, (rstd @ (x * given)).float().view(-1) - sums[1], sums[0]
