"""Number formats: every code and every tie against numpy, ml_dtypes, torch and the definition; stochastic rounding."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import Tensor

from mptrain.errors import ConfigError
from mptrain.precision.formats import NumberFormat, get_format, round_stochastic, round_to_format

OTHERS_DTYPES = {
    "fp16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
    "e3m4": ml_dtypes.float8_e3m4,
    "e3m2": ml_dtypes.float6_e3m2fn,
    "e2m3": ml_dtypes.float6_e2m3fn,
    "e2m1": ml_dtypes.float4_e2m1fn,
}
"""The same formats as others define them; each holds all of the format's codes."""
FREE = ("e1m3", "e2m2", "e3m0", "e4m0", "e5m0", "e5m5", "e6m9", "e8m0", "e8m1", "e8m3")


def same(actual: Tensor, expected: Tensor) -> bool:
    """Whether two tensors are equal with NaN equal to NaN and -0 different from 0."""
    equal = (actual == expected) & (actual.signbit() == expected.signbit())
    return actual.dtype == expected.dtype and bool((equal | (actual.isnan() & expected.isnan())).all())


def others_cast(x: Tensor, name: str) -> Tensor:
    """Return FP32 `x` cast to numpy's or ml_dtypes' format and back; NaN stays NaN where the format has none."""
    with np.errstate(all="ignore"):
        cast = torch.from_numpy(x.numpy().astype(OTHERS_DTYPES[name]).astype(np.float32))
    return torch.where(x.isnan(), x, cast)


def others_numbers(name: str) -> Tensor:
    """Return the numbers, infinities and NaNs of all codes as FP32."""
    dtype = np.dtype(OTHERS_DTYPES[name])
    codes = np.arange(2 ** get_format(name).bits, dtype=np.uint16 if dtype.itemsize == 2 else np.uint8)
    return torch.from_numpy(codes.view(dtype).astype(np.float32))


def defined_numbers(fmt: NumberFormat) -> Tensor:
    """Return zero and all positive numbers of an IEEE-like format in ascending order, by its definition, as FP64."""
    fractions = torch.arange(2**fmt.mantissa_bits, dtype=torch.float64) / 2**fmt.mantissa_bits
    binades = [fractions * 2.0 ** (1 - fmt.bias)]
    binades += [(1 + fractions) * 2.0 ** (code - fmt.bias) for code in range(1, 2**fmt.exponent_bits - 1)]
    return torch.cat(binades)


def hard_inputs(numbers: Tensor) -> Tensor:
    """Return FP32 numbers, the ties between neighbours and beyond the last, all ±1 FP32 step, and both signs."""
    finite = numbers.double()[numbers.isfinite()].unique()
    beyond = finite[-1] + (finite[-1] - finite[-2]) * torch.tensor([0.5, 1.0, 2.0])
    ties = (finite[1:] + finite[:-1]) / 2
    x = torch.cat([finite, ties, beyond]).float()
    x = torch.cat([x, torch.nextafter(x, torch.tensor(math.inf)), torch.nextafter(x, torch.tensor(-math.inf))])
    special = torch.tensor([math.inf, math.nan, 0.0, 2.0**-149, 2.0**-126, torch.finfo(torch.float32).max])
    return torch.cat([x, -x, special, -special])


def any_floats(count: int) -> Tensor:
    """Return FP32 numbers of random bits: every exponent, subnormals, infinities and NaNs with odd payloads."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(-(2**31), 2**31, (count,), generator=generator).int().view(torch.float32)


@pytest.mark.parametrize("name", OTHERS_DTYPES)
def test_rounding_agrees_with_others_on_every_code_and_tie(name: str) -> None:
    fmt = get_format(name)
    x = torch.cat([others_numbers(name), hard_inputs(others_numbers(name)), any_floats(200_000)])
    expected = others_cast(x, name)
    assert same(round_to_format(x, fmt), expected)
    assert same(round_to_format(x.double(), fmt), expected.double())
    saturated = round_to_format(x, fmt, saturate=True)
    assert same(saturated, torch.where(x.isnan(), x, others_cast(x.clamp(-fmt.max, fmt.max), name)))


@pytest.mark.parametrize("name", OTHERS_DTYPES)
def test_numbers_of_a_format_stay(name: str) -> None:
    fmt, numbers = get_format(name), others_numbers(name)
    assert same(round_to_format(numbers, fmt), numbers)
    assert same(round_stochastic(numbers, fmt, None), numbers)


@pytest.mark.parametrize("name", ["fp16", "bf16", "e5m2", "e4m3"])
def test_rounding_agrees_with_torch_casts(name: str) -> None:
    fmt = get_format(name)
    assert fmt.dtype is not None
    x = torch.cat([hard_inputs(others_numbers(name)), any_floats(200_000)])
    if name == "e4m3":  # beyond this torch's cast saturates or not, depending on its version
        x = x[x.abs() <= 464]
    assert same(round_to_format(x, fmt), x.to(fmt.dtype).float())


@pytest.mark.parametrize("name", FREE)
def test_rounding_agrees_with_the_definition(name: str) -> None:
    fmt = get_format(name)
    numbers = defined_numbers(fmt)
    x = hard_inputs(numbers)
    size = x.double().abs()
    above = torch.searchsorted(numbers, size).clamp(1, len(numbers) - 1)
    step = numbers[above] - numbers[above - 1]
    part = (size - numbers[above - 1]) / step
    odd = (above - 1) % 2 == 1 if fmt.mantissa_bits else above > 1  # with one digit, a tie goes to the larger number
    nearest = torch.where((part > 0.5) | ((part == 0.5) & odd), numbers[above], numbers[above - 1])
    last_tie = numbers[-1] + (2.0**fmt.max_exponent * fmt.epsilon if fmt.exponent_bits > 1 else numbers[1]) / 2
    nearest = torch.where(size >= last_tie, math.inf, nearest)
    expected = torch.where(size.isnan(), math.nan, nearest).copysign(x).float()
    assert same(round_to_format(x, fmt), expected)
    assert same(round_to_format(x.double(), fmt), expected.double())


@pytest.mark.parametrize("name", ["tf32", "bf16", "e8m22", "e8m1", "e7m23", "e5m23", "e1m23", "e7m16", "e5m7"])
def test_fp32_and_fp64_inputs_round_alike(name: str) -> None:
    x = any_floats(500_000)
    assert same(round_to_format(x, get_format(name)), round_to_format(x.double(), get_format(name)).float())


def test_fp64_is_rounded_once() -> None:
    x = torch.tensor([1 + 2**-11 + 2**-40, 1 + 2**-8 + 2**-40, 1 + 2**-24 + 2**-50], dtype=torch.float64)
    rounded = [round_to_format(x[i], get_format(name)).item() for i, name in enumerate(("fp16", "bf16", "fp32"))]
    assert rounded == [1 + 2**-10, 1 + 2**-7, 1 + 2**-23]


def test_wide_formats_change_nothing() -> None:
    x = any_floats(1000)
    assert round_to_format(x, get_format("fp32")) is x
    assert round_to_format(x, get_format("fp64")) is x
    assert round_stochastic(x, get_format("e8m23"), None) is x
    assert same(round_to_format(x.double(), get_format("fp64")), x.double())


@pytest.mark.parametrize(
    ("name", "largest", "normal", "subnormal"),
    [
        ("fp64", torch.finfo(torch.float64).max, 2.0**-1022, 2.0**-1074),
        ("fp32", torch.finfo(torch.float32).max, 2.0**-126, 2.0**-149),
        ("tf32", (2 - 2.0**-10) * 2.0**127, 2.0**-126, 2.0**-136),
        ("fp16", 65504.0, 2.0**-14, 2.0**-24),
        ("bf16", torch.finfo(torch.bfloat16).max, 2.0**-126, 2.0**-133),
        ("e4m3", 448.0, 2.0**-6, 2.0**-9),
        ("e5m2", 57344.0, 2.0**-14, 2.0**-16),
        ("e3m2", 28.0, 0.25, 0.0625),
        ("e2m3", 7.5, 1.0, 0.125),
        ("e2m1", 6.0, 1.0, 0.5),
        ("e1m2", 1.5, 2.0, 0.5),
    ],
)
def test_ranges_are_those_of_the_standards(name: str, largest: float, normal: float, subnormal: float) -> None:
    fmt = get_format(name)
    assert (fmt.max, fmt.smallest_normal, fmt.smallest_subnormal) == (largest, normal, subnormal)
    assert 2.0**fmt.max_exponent <= fmt.max
    if fmt.dtype is not None:
        finfo = torch.finfo(fmt.dtype)
        assert (fmt.max, fmt.smallest_normal, fmt.epsilon, fmt.bits) == (finfo.max, finfo.tiny, finfo.eps, finfo.bits)


def test_names() -> None:
    assert get_format("e5m10").dtype is torch.float16
    assert get_format("tf32").bits == 19
    for name in ("fp8", "e9m2", "e4m24", "int8", "e1m0", ""):
        with pytest.raises(ConfigError, match="one of fp64, fp32"):
            get_format(name)


def test_overflow_is_what_the_format_defines() -> None:
    x = torch.tensor([math.inf, -math.inf, 1e30, -1e30, math.nan])
    for name, expected in (
        ("e5m2", [math.inf, -math.inf, math.inf, -math.inf, math.nan]),
        ("e4m3", [math.nan] * 5),
        ("e2m1", [6.0, -6.0, 6.0, -6.0, math.nan]),
    ):
        assert same(round_to_format(x, get_format(name)), torch.tensor(expected))
    for name in ("fp16", "bf16", "tf32", "e4m3", "e5m2", "e3m4", "e2m1"):
        fmt = get_format(name)
        beyond = torch.tensor([math.inf, -math.inf, torch.finfo(torch.float32).max, math.nan])
        expected = torch.tensor([fmt.max, -fmt.max, fmt.max, math.nan])
        assert same(round_to_format(beyond, fmt, saturate=True), expected)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (5, 7)])
def test_shapes_and_layouts_are_kept(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, requires_grad=True)
    for name in ("bf16", "tf32", "e4m3"):
        for rounded in (round_to_format(x, get_format(name)), round_stochastic(x, get_format(name), None)):
            assert rounded.shape == x.shape
            assert not rounded.requires_grad
    strided = torch.randn(6, 8).t()[::2]
    for name in ("tf32", "e4m3"):
        assert same(round_to_format(strided, get_format(name)), round_to_format(strided.clone(), get_format(name)))
        stochastic = round_stochastic(strided, get_format(name), torch.Generator().manual_seed(1))
        assert (stochastic - strided).abs().max() <= strided.abs().max() * get_format(name).epsilon


STOCHASTIC = ("bf16", "tf32", "fp16", "e4m3", "e5m2", "e2m1", "e3m4", "e8m0")


def between_numbers(fmt: NumberFormat) -> Tensor:
    """Return FP32 inputs of several magnitudes and both signs, from deep below the smallest subnormal to the top."""
    generator = torch.Generator().manual_seed(2)
    magnitudes = [fmt.smallest_subnormal * 0.01, fmt.smallest_subnormal, fmt.smallest_normal, 1.0, fmt.max / 8]
    parts = torch.rand(len(magnitudes), 8, generator=generator) * 3
    return (
        (parts * torch.tensor(magnitudes)[:, None] * torch.tensor([1.0, -1.0] * 4)).flatten().clamp(-fmt.max, fmt.max)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", STOCHASTIC)
def test_stochastic_rounding_is_unbiased(name: str, dtype: torch.dtype) -> None:
    fmt, tries = get_format(name), 20_000
    x = between_numbers(fmt)
    rounded = round_stochastic(x.to(dtype).repeat(tries, 1), fmt, torch.Generator().manual_seed(3)).double()
    x = x.double()
    step = 2.0 ** x.abs().clamp(min=fmt.smallest_normal).log2().floor() * fmt.epsilon
    part = (x / step).abs().frac()
    steps_up = ((rounded - (x / step).trunc() * step) * x.sign()) / step
    assert ((steps_up == 0) | (steps_up == 1)).all()
    deviation = (tries * part * (1 - part)).sqrt().clamp(min=1.0)
    assert ((steps_up.sum(0) - tries * part) / deviation).abs().max() < 5


@pytest.mark.parametrize("name", ["bf16", "e4m3"])
def test_elements_are_rounded_independently(name: str) -> None:
    fmt = get_format(name)
    x = torch.full((100_001,), 1 + fmt.epsilon / 2)
    up = (round_stochastic(x, fmt, torch.Generator().manual_seed(4)) > 1).double()
    for distance in (1, 2, 3):
        together = (up[distance:] * up[:-distance]).mean().item()
        assert abs(together - 0.25) < 5 * math.sqrt(0.25 * 0.75 / 100_000)


def test_stochastic_rounding_repeats_with_its_generator() -> None:
    for name in ("bf16", "e4m3"):
        x, fmt = torch.randn(1000), get_format(name)
        first, again, other = (round_stochastic(x, fmt, torch.Generator().manual_seed(seed)) for seed in (5, 5, 6))
        assert same(first, again)
        assert not same(first, other)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_stochastic_rounding_overflows_as_nearest_does(name: str) -> None:
    fmt = get_format(name)
    beyond = torch.tensor([1 + fmt.epsilon / 64, 1 + fmt.epsilon, 4.0, math.inf, math.nan]).double() * fmt.max
    x = torch.cat([beyond, -beyond]).float()
    for _ in range(8):
        assert same(round_stochastic(x, fmt, None), round_to_format(x, fmt))
    just_below = torch.full((1000,), fmt.max).nextafter(torch.tensor(0.0))
    assert round_stochastic(just_below, fmt, None).abs().max() <= fmt.max
