"""Scaled quantisation against torchao, bit for bit, and what torchao leaves open: short blocks, zeros, overflow."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torchao.float8.config import ScalingGranularity
from torchao.float8.float8_scaling_utils import hp_tensor_to_float8_dynamic
from torchao.float8.float8_training_tensor import LinearMMConfig
from torchao.prototype.mx_formats.config import ScaleCalculationMode
from torchao.prototype.mx_formats.constants import DTYPE_FP6_E2M3, DTYPE_FP6_E3M2
from torchao.prototype.mx_formats.mx_tensor import MXTensor
from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor, per_tensor_amax_to_scale

from mptrain.precision.formats import get_format, round_stochastic, round_to_format
from mptrain.precision.quantize import OperandScaling, fake_quantize

TENSOR, ROW = OperandScaling("tensor"), OperandScaling("row")
MX, NVFP4 = OperandScaling("block", 32, "e8m0"), OperandScaling("block", 16, "e4m3")
POW2 = OperandScaling("block", 32, "pow2")
ALL = [TENSOR, ROW, MX, NVFP4, OperandScaling("block", 16), OperandScaling("tensor", 32, "e8m0")]
FP8 = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}
MX_ELEMENTS = {**FP8, "e3m2": DTYPE_FP6_E3M2, "e2m3": DTYPE_FP6_E2M3, "e2m1": torch.float4_e2m1fn_x2}


def wide_range(*shape: int) -> Tensor:
    """Return numbers whose rows and columns differ by many powers of two, with exact zeros among them."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator) * 2.0 ** torch.randint(-12, 12, shape, generator=generator)
    return x * 10.0 ** torch.linspace(-6, 6, shape[0]).view(-1, *[1] * (len(shape) - 1)) * (x.abs() > 0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("factor", [1.0, 1e-20, 1e20])
@pytest.mark.parametrize("dim", [None, 0, -1])
@pytest.mark.parametrize("name", FP8)
def test_fp32_scales_agree_with_torchao(name: str, dim: int | None, factor: float, dtype: torch.dtype) -> None:
    x = (wide_range(48, 64) * factor).to(dtype)
    granularity = ScalingGranularity.TENSORWISE if dim is None else ScalingGranularity.AXISWISE
    config = LinearMMConfig()
    theirs = hp_tensor_to_float8_dynamic(x, FP8[name], config, scaling_granularity=granularity, axiswise_dim=dim)
    expected = theirs._data.float() / theirs._scale
    actual = fake_quantize(x, get_format(name), TENSOR if dim is None else ROW, -1 if dim is None else dim)
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("factor", [1.0, 2.0**-20, 1e20])
@pytest.mark.parametrize("name", FP8)
def test_powers_of_two_without_saturation_agree_with_torchao(name: str, factor: float) -> None:
    x, config, fmt = wide_range(48, 64) * factor, LinearMMConfig(), get_format(name)
    x[:4] = fmt.max * torch.tensor([1.0, 1 + 2.0**-22, 1 - 2.0**-22, 2.0**-9])[:, None]
    rows = hp_tensor_to_float8_dynamic(
        x,
        FP8[name],
        config,
        scaling_granularity=ScalingGranularity.AXISWISE,
        axiswise_dim=-1,
        round_scales_to_power_of_2=True,
    )
    assert torch.equal(fake_quantize(x, fmt, OperandScaling("row", 32, "pow2"), -1), rows._data.float() / rows._scale)
    blocks = MXTensor.to_mx(x * 1e-18, FP8[name], 32, ScaleCalculationMode.RCEIL).dequantize(torch.float32)
    assert torch.equal(fake_quantize(x * 1e-18, fmt, POW2, 1), blocks)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("factor", [1.0, 1e-20, 1e20])
@pytest.mark.parametrize("name", MX_ELEMENTS)
def test_power_of_two_scales_agree_with_torchao(name: str, factor: float, dtype: torch.dtype) -> None:
    x = (wide_range(48, 64) * factor).to(dtype)
    expected = MXTensor.to_mx(x, MX_ELEMENTS[name], 32).dequantize(torch.float32)
    assert torch.equal(fake_quantize(x, get_format(name), MX, 1), expected)
    assert torch.equal(fake_quantize(x.t(), get_format(name), MX, 0), expected.t())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("factor", [1.0, 1e-14, 1e20])
def test_two_level_scales_agree_with_torchao(factor: float, dtype: torch.dtype) -> None:
    x = (wide_range(48, 64) * factor).to(dtype)
    tensor_scale = per_tensor_amax_to_scale(x.abs().amax())
    expected = NVFP4Tensor.to_nvfp4(x, per_tensor_scale=tensor_scale).dequantize(torch.float32)
    assert torch.equal(fake_quantize(x, get_format("e2m1"), NVFP4, 1), expected)


@pytest.mark.parametrize("scaling", [*ALL, POW2], ids=str)
@pytest.mark.parametrize("dim", [0, 1, 2, 3, -2])
def test_the_inner_dimension_may_be_any(scaling: OperandScaling, dim: int) -> None:
    x, fmt = wide_range(5, 40, 3, 20), get_format("e2m1")
    last = fake_quantize(x.movedim(dim, -1).contiguous(), fmt, scaling, -1)
    result = fake_quantize(x, fmt, scaling, dim)
    assert result.shape == x.shape
    assert torch.equal(result.movedim(dim, -1), last)


@pytest.mark.parametrize("scaling", [MX, NVFP4, OperandScaling("block", 7)], ids=str)
def test_a_short_last_block_is_scaled_by_itself(scaling: OperandScaling) -> None:
    fmt, block = get_format("e2m1"), scaling.block_size
    x = torch.rand(4, 2 * block + 5) + 0.1
    x[:, -5:] *= 2**-6
    padded = torch.cat([x, torch.zeros(4, block - 5)], dim=1)
    result = fake_quantize(x, fmt, scaling, 1)
    assert torch.equal(result, fake_quantize(padded, fmt, scaling, 1)[:, : -(block - 5)])
    assert (result[:, -5:] != 0).any(), "scaled with its neighbours, it would be all zero"
    assert torch.equal(fake_quantize(x[:, :5], fmt, scaling, 1).sign(), x[:, :5].sign())


@pytest.mark.parametrize("scaling", ALL, ids=str)  # pow2 may round FP32's largest numbers up, to infinity
@pytest.mark.parametrize("name", ["e4m3", "e5m2", "e2m1", "fp16"])
def test_zeros_tiny_and_huge_numbers_stay_finite(scaling: OperandScaling, name: str) -> None:
    for value in (0.0, -0.0, 2.0**-149, 2.0**-126, 1e-30, 3e38, torch.finfo(torch.float32).max):
        x = torch.full((4, 64), value)
        result = fake_quantize(x, get_format(name), scaling, 1)
        assert result.isfinite().all(), value
        assert torch.equal(result.signbit(), x.signbit())
        if value >= 3e38:
            assert ((result - x).abs() <= x / 4).all()


def test_amax_of_zero_beside_others() -> None:
    x = torch.zeros(3, 64)
    x[1, 40] = 5.0
    for scaling in ALL:
        assert torch.equal(fake_quantize(x, get_format("e2m1"), scaling, 1).nonzero(), torch.tensor([[1, 40]]))


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("name", ["e4m3", "e5m2", "e2m1"])
def test_a_non_finite_element_spoils_what_shares_its_scale(name: str, value: float) -> None:
    fmt = get_format(name)
    x = torch.randn(4, 64)
    x[:, 3] = 0.0
    x[2, 40] = value
    spoiled = {
        OperandScaling("none"): torch.zeros(4, 64).index_put((torch.tensor(2), torch.tensor(40)), torch.tensor(1.0)),
        TENSOR: torch.ones(4, 64),
        ROW: torch.zeros(4, 64).index_fill(0, torch.tensor(2), 1.0),
        NVFP4: torch.ones(4, 64),  # its first level is the tensor's
    }
    for scaling, expected in spoiled.items():
        assert torch.equal(fake_quantize(x, fmt, scaling, 1).isnan(), expected.bool())
    for scaling in (MX, POW2):
        blocks = fake_quantize(x, fmt, scaling, 1).isnan()
        assert blocks[2, 32:].all()
        assert blocks.sum() == 32
    assert fake_quantize(x.half(), fmt, TENSOR, 1).isnan().all()


def test_unscaled_formats_overflow_as_their_casts_do() -> None:
    x = torch.tensor([1e6, -1e6, 1.0, math.inf])
    none = OperandScaling("none")
    assert fake_quantize(x, get_format("fp16"), none, 0).tolist() == [math.inf, -math.inf, 1.0, math.inf]
    assert fake_quantize(x, get_format("e4m3"), none, 0)[:3].tolist() == [448.0, -448.0, 1.0]


@pytest.mark.parametrize("name", ["fp64", "fp32", "tf32", "bf16"])
def test_formats_with_the_range_of_fp32_are_only_rounded(name: str) -> None:
    x, fmt = wide_range(8, 64), get_format(name)
    for scaling in ALL:
        assert torch.equal(fake_quantize(x, fmt, scaling, 1), round_to_format(x, fmt))


def test_the_result_is_fp32_without_a_graph() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        x = torch.randn(4, 40, dtype=dtype, requires_grad=True)
        before = x.detach().clone()
        for scaling in (*ALL, OperandScaling("none")):
            result = fake_quantize(x, get_format("e4m3"), scaling, 1)
            assert (result.dtype, result.requires_grad) == (torch.float32, False)
        assert torch.equal(x.detach(), before)
    for scaling in ALL:
        assert fake_quantize(torch.zeros(0, 8), get_format("e4m3"), scaling, 1).shape == (0, 8)


def test_a_scale_per_row_saves_small_rows() -> None:
    x = wide_range(64, 64)
    by_tensor, by_row = (fake_quantize(x, get_format("e4m3"), scaling, 1) for scaling in (TENSOR, ROW))
    assert (by_row - x)[0].norm() < 0.1 * x[0].norm()
    assert torch.equal(by_tensor[0], torch.zeros(64)), "one scale for rows a trillion apart"


def test_no_host_reads() -> None:
    x = torch.empty(4, 40, device="meta")  # has no numbers to read: whoever tries gets an error
    for name in ("fp16", "bf16", "tf32", "e4m3", "e5m2", "e2m1"):
        fmt = get_format(name)
        assert round_to_format(x, fmt).shape == round_stochastic(x, fmt, None).shape == x.shape
        for scaling in (*ALL, OperandScaling("none")):
            assert fake_quantize(x, fmt, scaling, 1).shape == x.shape
