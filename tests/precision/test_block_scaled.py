"""MXFP8 and NVFP4 layers over torchao: what they keep, what they round, rows that fill no block."""

import copy

import pytest
import torch
from torch import nn

from mptrain.precision.block_scaled import BlockScaledLinear, convert_mx


def make_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 32, bias=False))


def sqnr_db(reference, found):
    return (20 * torch.log10(reference.norm() / (reference - found).norm())).item()


def test_conversion_keeps_names_objects_and_other_layers():
    net = make_net()
    parameters, keys, last = list(net.parameters()), list(net.state_dict()), net[2]
    convert_mx(net, ["0"], "mxfp8", emulate=True)
    assert type(net[0]) is BlockScaledLinear
    assert net[2] is last
    assert list(net.state_dict()) == keys
    assert all(now is before for now, before in zip(net.parameters(), parameters, strict=True))


@pytest.mark.parametrize("shape", [(64, 64), (3, 7, 64)])
def test_an_mxfp8_step_is_near_fp32s(shape):
    reference = make_net()
    net = copy.deepcopy(reference)
    convert_mx(net, ["0", "2"], "mxfp8", emulate=True)
    inputs = torch.randn(shape)
    outputs, gradients = [], []
    for model in (reference, net):
        outputs.append(model(inputs))
        outputs[-1].square().mean().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert outputs[1].shape == outputs[0].shape
    assert outputs[1].dtype == torch.float32
    assert 20 < sqnr_db(*outputs) < 60
    for name, exact in gradients[0].items():
        assert gradients[1][name].dtype == torch.float32
        assert 18 < sqnr_db(exact, gradients[1][name]) < 60, name


def test_padding_changes_nothing():
    net = make_net()
    convert_mx(net, ["0", "2"], "mxfp8", emulate=True)
    inputs = torch.randn(32, 64)
    inputs[20:] = 0
    whole, part = net(inputs)[:20], net(inputs[:20])
    assert torch.equal(whole, part)
    gradients = [torch.autograd.grad(output.square().sum(), list(net.parameters())) for output in (whole, part)]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_outputs_take_autocasts_format():
    net = make_net()
    convert_mx(net, ["0"], "mxfp8", emulate=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert net(torch.randn(32, 64)).dtype == torch.bfloat16
        assert net[0](torch.randn(32, 64)).dtype == torch.bfloat16


def test_nvfp4_layers_add_nothing_to_a_checkpoint_and_draw_nothing():
    net = nn.Sequential(nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 128))
    keys, random = list(net.state_dict()), torch.get_rng_state()
    convert_mx(net, ["0"], "nvfp4")
    assert type(net[0]) is BlockScaledLinear
    assert list(net.state_dict()) == keys
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_a_non_finite_gradient_stays_visible(value):
    net = make_net()
    convert_mx(net, ["0", "2"], "mxfp8", emulate=True)
    output = net(torch.randn(32, 64))
    gradient = torch.ones_like(output)
    gradient[3, 5] = value
    output.backward(gradient)
    assert not any(parameter.grad.isfinite().all() for parameter in net.parameters())
