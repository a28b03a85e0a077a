"""Layers with rounded operands as drop-ins: what they keep, what they compute, what they refuse."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mptrain.errors import ConfigError
from mptrain.precision.emulated_gemm import coverable, emulate_layer
from mptrain.precision.modes import get_mode
from tests.precision.test_emulated_gemm import CONVOLUTIONS, FP32, emulated


class Products(TorchDispatchMode):
    """Counts matrix products and convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name() in ("aten::mm", "aten::convolution", "aten::convolution_backward"):
            self.names.append(func.name())
        assert func.name() not in ("aten::_local_scalar_dense", "aten::nonzero"), "reads the device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_only_gradients_that_are_needed_are_computed(kind: str) -> None:
    layer: nn.Module = nn.Linear(16, 8) if kind == "linear" else nn.Conv2d(4, 8, 3)
    input = torch.randn(2, 16) if kind == "linear" else torch.randn(2, 4, 5, 5)
    twin = emulated(layer, get_mode("mxfp8").gemm)  # type: ignore[arg-type]

    def products(input: Tensor) -> int:
        with Products() as seen:
            output = twin(input)
            if output.requires_grad:
                output.sum().backward()
        return len(seen.names)

    assert products(input) == 2  # a first layer needs no grad_input
    assert products(input.clone().requires_grad_()) == 3
    twin.get_parameter("weight").requires_grad_(False)
    assert products(input.clone().requires_grad_()) == 2
    with torch.no_grad():
        assert products(input) == 1


def test_the_layer_keeps_its_identity() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 9, 2))
    before, parameters = copy.deepcopy(model.state_dict()), list(model.parameters())
    calls: list[str] = []
    model[0].register_forward_hook(lambda *_: calls.append("hook"))
    for index in (0, 2):
        emulate_layer(model[index], replace(FP32, input="e2m1"))
    input = torch.randn(3, 1, 5, 5)
    model(input).sum().backward()
    assert calls == ["hook"]
    assert [id(p) for p in model.parameters()] == [id(p) for p in parameters]
    assert type(model[0]) is nn.Conv2d
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    twin = copy.deepcopy(model)
    with torch.no_grad():
        model[2].weight.zero_()
        assert (twin(input) != model(input)).any(), "a deep copy must use its own weight"


def test_the_last_formats_count() -> None:
    torch.manual_seed(0)
    layer, input = nn.Linear(16, 8), torch.randn(4, 16)
    twin = emulated(layer, replace(FP32, input="e2m1"))
    assert not torch.equal(twin(input), emulated(layer, FP32)(input))
    emulate_layer(twin, FP32)
    assert torch.equal(twin(input), emulated(layer, FP32)(input))


class OwnForward(nn.Linear):
    """A linear layer that does something else."""

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight * 2)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (nn.ConvTranspose2d(2, 2, 2), "ConvTranspose2d is not covered"),
        (nn.Bilinear(2, 2, 2), "Bilinear is not covered"),
        (nn.LayerNorm(2), "LayerNorm is not covered"),
        (OwnForward(2, 2), "OwnForward has a forward of its own"),
        (nn.MultiheadAttention(4, 2).out_proj, "MultiheadAttention uses its weight without calling it"),
    ],
)
def test_what_cannot_be_emulated_says_why(layer: nn.Module, words: str) -> None:
    assert words in str(coverable(layer))
    with pytest.raises(ConfigError, match=words):
        emulate_layer(layer, FP32)


def test_what_can_be_emulated() -> None:
    for layer in (nn.Linear(2, 2), *(layer for layer, _ in CONVOLUTIONS.values())):
        assert coverable(layer) is None


def test_fp64_operands_are_refused() -> None:
    with pytest.raises(ConfigError, match="'fp64' is wider than the FP32"):
        emulate_layer(nn.Linear(2, 2), replace(FP32, weight="fp64"))
