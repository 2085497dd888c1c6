"""The layers in bfloat16, written down once, against what they stand for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from feilun.models import fused, network
from tests.models import tiny


@pytest.fixture
def net(tmp_path: Path) -> network.Network:
    made = network.load(tiny.write_base(tmp_path / "base"), tiny.CONTEXT)
    made.relabel(["bad", "fair", "good"], seed=1)
    return made


def batch() -> tuple[Tensor, Tensor]:
    """Ids and mask (4, 9), with padding."""
    ids = torch.randint(4, len(tiny.WORDS), (4, 9), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(ids)
    mask[1, 5:] = mask[3, 2:] = 0
    return ids * mask, mask


def gradients(net: network.Network, outputs: Callable[[], Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Outputs, and the gradient of every parameter, in float32."""
    net.zero_grad()
    found = outputs()
    torch.autograd.backward((found * torch.arange(1, 4)).square().sum())
    return found.detach(), {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}


def test_outputs_and_gradients_are_as_near_to_float32_as_those_of_autocast(net: network.Network) -> None:
    ids, mask = batch()

    def plain() -> Tensor:
        states = net.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        outputs: Tensor = net.head(states, mask)
        return outputs

    def in_bfloat16(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        def outputs() -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return run()

        return outputs

    exact, true = gradients(net, plain)
    usual, autocast = gradients(net, in_bfloat16(plain))
    ours, found = gradients(net, in_bfloat16(lambda: net(ids, mask)))
    assert found.keys() == true.keys() == autocast.keys()
    assert (ours - exact).abs().max() < 2 * (usual - exact).abs().max() + 1e-3
    for name, expected in true.items():
        allowed = 2 * (autocast[name] - expected).norm() + 0.03 * expected.norm() + 1e-4
        assert (found[name] - expected).norm() < allowed, name


def test_padding_changes_nothing(net: network.Network) -> None:
    ids, mask = batch()
    layers = fused.layers_of(net.encoder)
    assert layers is not None

    def states(ids: Tensor, mask: Tensor) -> Tensor:
        return fused.run(layers, net.encoder.embeddings(input_ids=ids), mask).float()

    with torch.no_grad():
        wide, alone = states(ids, mask)[3, :2], states(ids[3:, :2], mask[3:, :2])[0]
        unmasked = states(ids, torch.ones_like(mask))[3, :2]
    assert (wide - alone).abs().max() < 1e-2 < (unmasked - alone).abs().max()


def test_what_is_frozen_gets_no_gradient_and_changes_no_other(net: network.Network) -> None:
    ids, mask = batch()

    def outputs() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            found: Tensor = net(ids, mask)
            return found

    _, whole = gradients(net, outputs)
    net.layers[0].requires_grad_(False)
    for name, parameter in net.layers[1].named_parameters():
        parameter.requires_grad_(name.endswith("bias"))
    _, part = gradients(net, outputs)
    assert not any(name.startswith("encoder.encoder.layer.0.") for name in part)
    assert {n for n in part if ".layer.1." in n} == {n for n in whole if ".layer.1." in n and n.endswith("bias")}
    assert all(torch.equal(part[name], whole[name]) for name in part if "layer.1" in name)


def test_an_encoder_with_another_module_in_a_layer_runs_its_own_forward(net: network.Network) -> None:
    class Longer(nn.Linear):
        """As an adapter would stand there."""

    assert fused.layers_of(net.encoder) is not None
    net.layers[0].get_submodule("attention.self").register_module("query", Longer(32, 32))
    assert fused.layers_of(net.encoder) is None


def test_sums_over_many_tokens_are_not_added_up_in_bfloat16() -> None:
    """The kernel's own sums for a normalisation's weight and bias are 8 % off here."""
    generator = torch.Generator().manual_seed(0)
    x, given = (torch.randn(4096, 64, generator=generator).bfloat16() for _ in range(2))
    weight, bias = torch.ones(64), torch.zeros(64)
    _, mean, rstd = torch.native_layer_norm(x, (64,), weight.bfloat16(), bias.bfloat16(), 1e-12)
    _, *found = fused._norm_backward(given, x, (mean, rstd), (weight.bfloat16(), bias.bfloat16()), True)
    seen = torch.native_layer_norm(x.float(), (64,), weight, bias, 1e-12)[1:]
    _, *true = torch.ops.aten.native_layer_norm_backward(
        given.float(), x.float(), (64,), *seen, weight, bias, (True, True, True)
    )
    for ours, expected in zip(found, true, strict=True):
        assert ours is not None and (ours - expected).norm() < 0.01 * expected.norm()
