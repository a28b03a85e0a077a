"""Layers with rounded operands: against torchao, against products written out, and as drop-ins for torch's layers."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchao.float8.config import Float8LinearConfig
from torchao.float8.float8_linear import Float8Linear
from torchao.prototype.moe_training.mxfp8_linear import mx_mm
from torchao.prototype.mx_formats.config import (
    MXFP8Dim0CastKernelChoice,
    MXFP8Dim1CastKernelChoice,
    ScaleCalculationMode,
)
from torchao.quantization.quantize_.common.kernel_preference import KernelPreference

from mptrain.precision.emulated_gemm import emulate_layer
from mptrain.precision.formats import get_format, round_to_format
from mptrain.precision.modes import FP8_RECIPES, GemmFormats, get_mode
from mptrain.precision.quantize import OperandScaling, fake_quantize

FP32 = GemmFormats("fp32", "fp32", "fp32", "fp32", "none")


def sqnr_db(value: Tensor, reference: Tensor) -> float:
    value, reference = value.double(), reference.double()
    noise = (value - reference).norm().item()
    return 20 * math.log10(reference.norm().item() / noise) if noise else math.inf


def emulated(layer: nn.Module, formats: GemmFormats) -> nn.Module:
    """Return a copy of `layer` with operands in `formats`."""
    twin = copy.deepcopy(layer)
    emulate_layer(twin, formats)
    return twin


def spread(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return numbers over several powers of two, so that scales differ between rows and blocks."""
    return (torch.randn(shape) * 2.0 ** torch.randint(-4, 5, shape)).to(dtype)


def forward_and_backward(layer: nn.Module, input: Tensor) -> dict[str, Tensor]:
    """Return output and every gradient under a fixed gradient of the output."""
    input = input.clone().requires_grad_()
    layer.zero_grad()
    output = layer(input)
    output.backward(fixed_gradient(output))
    found = {"output": output.detach(), "input": input.grad}
    found |= {name: param.grad for name, param in layer.named_parameters()}
    assert all(value is not None for value in found.values())
    return found  # type: ignore[return-value]


def weight_gradient(layer: nn.Module) -> Tensor:
    grad = layer.get_parameter("weight").grad
    assert grad is not None
    return grad


def fixed_gradient(output: Tensor) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return spread(*output.shape).bfloat16().to(output.dtype)


@pytest.mark.parametrize("input_shape", [(48, 64), (3, 16, 64), (64,)], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("recipe", FP8_RECIPES)
def test_fp8_recipes_agree_with_torchao(recipe: str, dtype: torch.dtype, input_shape: tuple[int, ...]) -> None:
    """Operands are the same numbers; only the order of FP32 sums may differ, and so a rounding to BF16 in a hundred."""
    torch.manual_seed(0)
    layer, input = nn.Linear(64, 32), spread(*input_shape, dtype=dtype)
    with torch.no_grad():
        layer.weight *= 2.0 ** torch.linspace(-16, 4, 32).round()[:, None]  # rows that need scales of their own
    config = replace(Float8LinearConfig.from_recipe_name(recipe), emulate=True)
    theirs = forward_and_backward(Float8Linear.from_float(copy.deepcopy(layer), config), input)
    ours = forward_and_backward(emulated(layer, FP8_RECIPES[recipe]), input)
    floor = 120 if dtype is torch.float32 else 65
    for name, expected in theirs.items():
        assert ours[name].dtype == expected.dtype
        assert sqnr_db(ours[name], expected) > floor, name


@pytest.mark.parametrize("scale_format", ["e8m0", "pow2"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_mxfp8_agrees_with_torchao(dtype: torch.dtype, scale_format: Any) -> None:
    torch.manual_seed(0)
    layer, input = nn.Linear(96, 64, bias=False).to(dtype), spread(64, 96, dtype=dtype)
    rounding = {"e8m0": ScaleCalculationMode.FLOOR, "pow2": ScaleCalculationMode.RCEIL}[scale_format]
    x, weight = input.clone().requires_grad_(), layer.weight.detach().clone().requires_grad_()
    fp8 = (torch.float8_e4m3fn,) * 3
    kernels = (MXFP8Dim0CastKernelChoice.TORCH, MXFP8Dim1CastKernelChoice.TORCH)
    output = mx_mm.apply(x, weight, *fp8, 32, KernelPreference.EMULATED, *kernels, rounding, False)
    output.backward(fixed_gradient(output))
    formats = replace(get_mode("mxfp8").gemm, scale_format=scale_format)  # type: ignore[type-var]
    ours = forward_and_backward(emulated(layer, formats), input)
    floor = 120 if dtype is torch.float32 else 45  # torchao's emulated product is BF16's own, of dequantised BF16
    for name, expected in {"output": output.detach(), "input": x.grad, "weight": weight.grad}.items():
        assert expected is not None
        assert sqnr_db(ours[name], expected) > floor, name


CONVOLUTIONS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "1d": (nn.Conv1d(4, 6, 3, stride=2, padding=1), (2, 4, 9)),
    "2d": (nn.Conv2d(4, 6, 3, stride=(2, 1), padding=(1, 2), dilation=(1, 2)), (2, 4, 9, 8)),
    "3d": (nn.Conv3d(4, 6, 2), (2, 4, 3, 4, 5)),
    "no bias": (nn.Conv2d(4, 6, 1, bias=False), (2, 4, 3, 3)),
    "groups": (nn.Conv2d(4, 6, 3, groups=2), (2, 4, 6, 5)),
    "depthwise": (nn.Conv2d(4, 8, 3, groups=4, padding=1), (2, 4, 6, 5)),
    "same": (nn.Conv2d(4, 6, 3, padding="same", dilation=2), (2, 4, 6, 5)),
    "valid": (nn.Conv2d(4, 6, 3, padding="valid"), (2, 4, 6, 5)),
    "reflect": (nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (2, 4, 6, 5)),
    "circular same": (nn.Conv2d(4, 6, 3, padding="same", padding_mode="circular"), (2, 4, 6, 5)),
    "unbatched": (nn.Conv2d(4, 6, 3, padding=1), (4, 6, 5)),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_fp32_operands_reproduce_torchs_convolution(name: str) -> None:
    layer, shape = CONVOLUTIONS[name]
    torch.manual_seed(0)
    input = spread(*shape)
    expected = forward_and_backward(layer, input)
    for name, value in forward_and_backward(emulated(layer, FP32), input).items():
        torch.testing.assert_close(value, expected[name], rtol=2e-6, atol=2e-5)


def test_fp32_operands_reproduce_torchs_layers_bit_for_bit_without_a_bias() -> None:
    torch.manual_seed(0)
    for layer, shape in (
        (nn.Linear(32, 16, bias=False), (8, 32)),
        (nn.Conv2d(8, 16, 3, padding=1, bias=False), (4, 8, 6, 6)),
    ):
        input = spread(*shape)
        expected = forward_and_backward(layer, input)
        for name, value in forward_and_backward(emulated(layer, FP32), input).items():
            assert torch.equal(value, expected[name]), name


ROLES = {
    "input": {"output", "weight"},
    "weight": {"output", "input"},
    "grad_output_for_input": {"input"},
    "grad_output_for_weight": {"weight"},
}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_each_role_reaches_its_two_products_and_no_other(kind: str, role: str) -> None:
    """A format with no mantissa in one role gives what FP32 gives on operands rounded by hand."""
    torch.manual_seed(0)
    linear = kind == "linear"
    layer: nn.Module = nn.Linear(8, 6) if linear else nn.Conv2d(4, 6, 3)
    input = spread(5, 8) if linear else spread(2, 4, 5, 5)
    coarse = get_format("e5m0")

    def by_hand(rounded: bool) -> dict[str, Tensor]:
        def value(name: str, tensor: Tensor) -> Tensor:
            return round_to_format(tensor, coarse) if rounded and name == role else tensor

        weight, bias = layer.get_parameter("weight").detach(), layer.get_parameter("bias").detach()
        function: Any = F.linear if linear else F.conv2d
        x, w = value("input", input).requires_grad_(), value("weight", weight).requires_grad_()
        output = function(x, w, bias)
        grad = fixed_gradient(output)
        found = {"output": output.detach(), "bias": grad.sum(0 if linear else (0, 2, 3))}
        found["input"] = torch.autograd.grad(output, x, value("grad_output_for_input", grad), retain_graph=True)[0]
        found["weight"] = torch.autograd.grad(output, w, value("grad_output_for_weight", grad))[0]
        return found

    ours = forward_and_backward(emulated(layer, replace(FP32, **{role: "e5m0"})), input)
    plain, expected = by_hand(False), by_hand(True)
    for name, tensor in expected.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-5, atol=1e-4)
    assert {name for name, tensor in plain.items() if sqnr_db(ours[name], tensor) < 60} == ROLES[role]


def rounded(x: Tensor, name: str, scaling: OperandScaling, dim: int) -> Tensor:
    return fake_quantize(x, get_format(name), scaling, dim)


@pytest.mark.parametrize("scaling", [("row", 32, "fp32"), ("block", 8, "e8m0"), ("block", 16, "e4m3")], ids=str)
def test_operands_of_linear_share_scales_along_what_their_product_sums_over(scaling: tuple[Any, ...]) -> None:
    torch.manual_seed(0)
    layer, input = nn.Linear(40, 24, bias=False), spread(20, 40)
    weight, scale = layer.weight.detach(), OperandScaling(*scaling)
    ours = forward_and_backward(emulated(layer, GemmFormats("e4m3", "e5m2", "e3m2", "e2m3", *scaling)), input)
    grad = fixed_gradient(ours["output"])
    expected = {
        "output": rounded(input, "e4m3", scale, 1) @ rounded(weight, "e5m2", scale, 1).T,
        "input": rounded(grad, "e3m2", scale, 1) @ rounded(weight, "e5m2", scale, 0),
        "weight": rounded(grad, "e2m3", scale, 0).T @ rounded(input, "e4m3", scale, 0),
    }
    for name, value in expected.items():
        assert sqnr_db(ours[name], value) > 120, name


@pytest.mark.parametrize("scaling", [("tensor", 32, "fp32"), ("block", 8, "e8m0"), ("block", 16, "e4m3")], ids=str)
def test_a_pointwise_convolution_is_a_linear_layer_over_its_positions(scaling: tuple[Any, ...]) -> None:
    torch.manual_seed(0)
    convolution, linear = nn.Conv2d(32, 16, 1), nn.Linear(32, 16)
    linear.load_state_dict({"weight": convolution.weight[:, :, 0, 0], "bias": convolution.bias})
    formats = GemmFormats("e4m3", "e5m2", "e3m2", "e2m3", *scaling)
    input = spread(3, 4, 5, 32)  # channels last
    convolved, multiplied = (
        input.movedim(-1, 1).clone().requires_grad_(),
        input.clone().requires_grad_(),
    )
    convolution_twin, linear_twin = emulated(convolution, formats), emulated(linear, formats)
    output, expected = convolution_twin(convolved), linear_twin(multiplied)
    grad = fixed_gradient(expected)
    output.backward(grad.movedim(-1, 1))
    expected.backward(grad)
    assert sqnr_db(output.movedim(1, -1), expected) > 120
    assert convolved.grad is not None
    assert multiplied.grad is not None
    assert sqnr_db(convolved.grad.movedim(1, -1), multiplied.grad) > 120
    assert sqnr_db(weight_gradient(convolution_twin)[:, :, 0, 0], weight_gradient(linear_twin)) > 120


def as_matrix_rows(x: Tensor, kernel: int) -> Tensor:
    """Return the patches of `x` (1, C, H, W) that fill it whole: (1, kernel * kernel * C), channels fastest."""
    return x.movedim(1, -1).reshape(1, kernel * kernel * x.shape[1])


@pytest.mark.parametrize("scaling", [("row", 32, "fp32"), ("block", 8, "e8m0"), ("block", 16, "e4m3")], ids=str)
def test_a_convolution_over_its_whole_input_is_a_linear_layer_of_its_patch(scaling: tuple[Any, ...]) -> None:
    """One output position: then samples are rows and the summed dimension is all positions, channels fastest."""
    torch.manual_seed(0)
    convolution, linear = nn.Conv2d(6, 16, 3), nn.Linear(54, 16)
    flat_weight = convolution.weight.movedim(1, -1).reshape(16, 54)
    linear.load_state_dict({"weight": flat_weight, "bias": convolution.bias})
    formats = GemmFormats("e4m3", "e5m2", "e3m2", "e2m3", *scaling)
    input = spread(1, 6, 3, 3)
    ours = forward_and_backward(emulated(convolution, formats), input)
    expected = forward_and_backward(emulated(linear, formats), as_matrix_rows(input, 3))
    assert sqnr_db(ours["output"].flatten(1), expected["output"]) > 120
    assert sqnr_db(as_matrix_rows(ours["input"], 3), expected["input"]) > (120 if scaling[0] == "block" else 20)


@pytest.mark.parametrize("scaling", [("row", 32, "fp32"), ("block", 8, "e8m0")], ids=str)
def test_groups_are_convolutions_side_by_side(scaling: tuple[Any, ...]) -> None:
    torch.manual_seed(0)
    formats = GemmFormats("e4m3", "e5m2", "e3m2", "e2m3", *scaling)
    layer, input = nn.Conv2d(12, 20, 3, padding=1, groups=2), spread(3, 12, 5, 5)
    ours = forward_and_backward(emulated(layer, formats), input)
    grad = fixed_gradient(ours["output"])
    for group in range(2):
        outs, ins = slice(10 * group, 10 * group + 10), slice(6 * group, 6 * group + 6)
        part = nn.Conv2d(6, 10, 3, padding=1)
        part.load_state_dict({"weight": layer.weight[outs], "bias": layer.bias[outs]})  # type: ignore[index]
        x = input[:, ins].clone().requires_grad_()
        twin = emulated(part, formats)
        output = twin(x)
        output.backward(grad[:, outs])
        assert sqnr_db(ours["output"][:, outs], output) > 120
        assert x.grad is not None
        assert sqnr_db(ours["input"][:, ins], x.grad) > 120
        assert sqnr_db(ours["weight"][outs], weight_gradient(twin)) > 120


def test_rows_of_a_convolution_are_samples_filters_and_channels() -> None:
    """Huge numbers in one sample, filter or channel take no precision from the others, only from themselves."""
    torch.manual_seed(0)
    layer, input = nn.Conv2d(4, 6, 3), torch.randn(3, 4, 6, 6)
    formats = GemmFormats("e4m3", "e4m3", "e4m3", "e4m3", "row")
    plain = forward_and_backward(emulated(layer, formats), input)
    with torch.no_grad():
        layer.weight[2] *= 2.0**40
    big = forward_and_backward(emulated(layer, formats), input)
    others = [0, 1, 3, 4, 5]
    assert torch.equal(big["output"][:, others], plain["output"][:, others])
    with torch.no_grad():
        layer.weight[2] *= 2.0**-40
    input[1] *= 2.0**40
    big = forward_and_backward(emulated(layer, formats), input)
    assert torch.equal(big["output"][[0, 2]], plain["output"][[0, 2]])
    input[1] *= 2.0**-40
    input[:, 3] *= 2.0**40
    big = forward_and_backward(emulated(layer, formats), input)
    assert torch.equal(big["weight"][:, :3], plain["weight"][:, :3])


@pytest.mark.parametrize("low", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_under_autocast_results_have_its_dtype_and_weights_keep_theirs(kind: str, low: torch.dtype) -> None:
    torch.manual_seed(0)
    layer: nn.Module = nn.Linear(16, 8) if kind == "linear" else nn.Conv2d(4, 8, 3)
    input = torch.randn(2, 16) if kind == "linear" else torch.randn(2, 4, 5, 5)
    twin, x = emulated(layer, FP8_RECIPES["tensorwise"]), input.clone().requires_grad_()
    with torch.autocast("cpu", dtype=low):
        output = twin(x)
    output.backward(torch.ones_like(output))
    direct = forward_and_backward(emulated(layer, FP8_RECIPES["tensorwise"]), input.to(low))
    assert output.dtype == low
    assert torch.equal(output, direct["output"])
    for parameter in twin.parameters():
        assert parameter.grad is not None
        assert parameter.grad.dtype == torch.float32
        assert torch.equal(parameter.grad, parameter.grad.to(low).float())  # rounded to the compute dtype on its way


def test_products_stay_fp32_under_an_active_autocast() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(64, 8, bias=False)
    input = torch.randn(16, 64).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = emulated(layer, FP32)(input)
    assert torch.equal(output, (input.float() @ layer.weight.T).bfloat16())


def test_named_formats_round_without_a_scale() -> None:
    layer = nn.Linear(1, 1, bias=False)
    layer.load_state_dict({"weight": torch.ones(1, 1)})
    formats = replace(FP8_RECIPES["tensorwise"], input="fp16")
    twin = emulated(layer, formats)
    values = torch.tensor([[2.0**-26], [2049.0], [70000.0]])
    assert twin(values).flatten().tolist() == [0.0, 2048.0, math.inf]


def test_an_overflow_is_not_saturated_away() -> None:
    torch.manual_seed(0)
    twin = emulated(nn.Linear(32, 8), FP8_RECIPES["rowwise"])
    output = twin(torch.randn(4, 32))
    grad = torch.ones_like(output)
    grad[1, 2] = math.inf
    output.backward(grad)
    assert not weight_gradient(twin)[2].isfinite().any()
    assert weight_gradient(twin)[3].isfinite().all()
