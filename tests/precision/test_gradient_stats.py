"""Gradient statistics against a count by hand, over gradients that reach into every corner of a format."""

import math

import ml_dtypes
import numpy as np
import pytest
import torch

from mptrain.precision.formats import get_format
from mptrain.precision.gradient_stats import (
    HIGHEST_EXPONENT,
    LOWEST_EXPONENT,
    GradientStats,
    count_exponents,
    measure,
    read_stats,
    total,
    trimmed,
)

FORMATS = ["fp16", "bf16", "e5m2", "e4m3", "fp32", "fp64", "e3m4"]
SCALE = 2.0**10


def crafted(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Gradients with zeros of both signs, every power of two that the dtype holds and its neighbours, huge values."""
    top = math.frexp(torch.finfo(dtype).max)[1] - 1
    powers = [2.0**e for e in range(-1074 if dtype is torch.float64 else -149, top + 1)]
    around = [p * (1 + delta) for p in powers for delta in (-(2.0**-9), 0.0, 2.0**-9)]
    generator = torch.Generator().manual_seed(0)
    return {
        "powers": torch.tensor(around, dtype=torch.float64).mul(-1).to(dtype),
        "mixed": (torch.randn(7, 5, generator=generator) * 1e-7).to(dtype),
        "transposed": (torch.randn(6, 4, generator=generator) * 1e-9).to(dtype).t(),
        "zeros": torch.tensor([0.0, -0.0, 0.0], dtype=dtype),
        "scalar": torch.tensor(3e-5, dtype=dtype),
    }


def as_numpy(grad: torch.Tensor) -> np.ndarray:
    return np.abs(grad.double().numpy())


def by_hand(grad: torch.Tensor, scale: float, name: str) -> GradientStats:
    fmt, stored_scaled = get_format(name), grad.dtype.itemsize < 4
    values = as_numpy(grad)
    # FP32 gradients are scaled in FP32, as in the measurement: only what overflows or ends below 2**-149 differs.
    scaled = values if stored_scaled else np.abs((grad * scale).double().numpy())
    nonzero = scaled[values > 0]
    unscale = scale if stored_scaled else 1.0
    return GradientStats(
        elements=values.size,
        zeros=int((values == 0).sum()),
        amax=float(values.max()) / unscale,
        scaled_amax=float(values.max()) / unscale * scale,
        norm=math.hypot(*values.flatten()) / unscale,
        below_normal=int((nonzero < fmt.smallest_normal).sum()),
        below_subnormal=int((nonzero < fmt.smallest_subnormal).sum()),
    )


def measured(grads: dict[str, torch.Tensor], name: str, scale: float = SCALE) -> dict[str, GradientStats]:
    device_scale = torch.tensor(scale)
    names, rows, _ = measure({key: (grad, device_scale) for key, grad in grads.items()}, get_format(name))
    assert rows.dtype == torch.float64
    return read_stats(names, rows.tolist(), [grads[n].numel() for n in names])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", FORMATS)
def test_against_a_count_by_hand(name, dtype):
    grads = crafted(dtype)
    found = measured(grads, name)
    assert set(found) == set(grads)
    for key, grad in grads.items():
        expected = by_hand(grad, SCALE, name)
        assert found[key][:2] == expected[:2], key
        assert found[key][5:] == expected[5:], key
        assert (found[key].amax, found[key].scaled_amax) == (expected.amax, expected.scaled_amax), key
        if math.isfinite(float(grad.float().norm())):
            assert found[key].norm == pytest.approx(expected.norm, rel=1e-5), key


@pytest.mark.parametrize(("name", "numpy_type"), [("fp16", np.float16), ("e5m2", ml_dtypes.float8_e5m2)])
def test_what_is_below_the_smallest_subnormal_is_what_can_be_lost(name, numpy_type):
    """Rounded to nearest, elements below half the smallest subnormal become zero, and none above it does."""
    grad = torch.logspace(-14, 0, 4001)
    stats = measured({"g": grad}, name, scale=1.0)["g"]
    rounded = grad.numpy().astype(numpy_type).astype(np.float64)
    lost = int((rounded == 0).sum())
    tie = int(((grad >= get_format(name).smallest_subnormal / 2) & (grad < get_format(name).smallest_subnormal)).sum())
    assert stats.below_subnormal == lost + tie
    assert 0 < lost < stats.below_normal


def test_a_larger_scale_lifts_elements_into_range():
    grads = {"g": torch.logspace(-9, -3, 1000)}
    shares = [measured(grads, "fp16", scale)["g"].below_normal_share for scale in (1.0, 2.0**8, 2.0**16)]
    assert shares[0] > shares[1] > shares[2] == 0


def test_headroom_is_in_powers_of_two_and_can_be_negative():
    fp16 = get_format("fp16")
    grads = {"g": torch.tensor([2.0**-5, -(2.0**-3)])}
    assert measured(grads, "fp16", 2.0**10)["g"].headroom(fp16) == pytest.approx(math.log2(65504) + 3 - 10)
    assert measured(grads, "fp16", 2.0**24)["g"].headroom(fp16) == pytest.approx(math.log2(65504) + 3 - 24)
    assert measured({"g": torch.zeros(3)}, "fp16", 1.0)["g"].headroom(fp16) is None
    assert measured({"g": torch.zeros(3)}, "fp16", 1.0)["g"].below_normal_share == 0


def test_the_total_adds_up():
    grads = crafted(torch.float32)
    whole = torch.cat([grad.reshape(-1) for grad in grads.values()])
    one, parts = measured({"whole": whole}, "fp16")["whole"], total(measured(grads, "fp16").values())
    assert parts._replace(norm=0.0) == one._replace(norm=0.0)


def test_the_total_norm_is_the_norm_of_all():
    grads = {name: torch.randn(50) for name in "abc"}
    whole = torch.cat(list(grads.values())).norm().item()
    assert total(measured(grads, "fp16").values()).norm == pytest.approx(whole, rel=1e-6)


def test_gradients_of_several_dtypes_are_measured_together():
    grads = {"low": torch.tensor([2.0**-20], dtype=torch.float16), "wide": torch.tensor([2.0**-20])}
    found = measured(grads, "fp16", scale=2.0**10)
    assert found["low"].amax == 2.0**-30  # still scaled in the gradient
    assert found["wide"].amax == 2.0**-20
    assert (found["low"].below_normal, found["wide"].below_normal) == (1, 0)


def test_each_gradient_is_judged_at_its_own_scale():
    low, high = torch.tensor(1.0), torch.tensor(2.0**12)
    grad, fp16 = torch.tensor([2.0**-20, 2.0**-4]), get_format("fp16")
    names, rows, _ = measure({"a": (grad, low), "b": (grad, high), "c": (grad, low)}, fp16)
    found = read_stats(names, rows.tolist(), [2, 2, 2])
    assert {name: stats.below_normal for name, stats in found.items()} == {"a": 1, "b": 0, "c": 1}
    everything = total(found.values())
    assert everything.headroom(fp16) == found["b"].headroom(fp16) == pytest.approx(found["a"].headroom(fp16) - 12)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_stays_visible(bad):
    found = measured({"good": torch.ones(2), "bad": torch.tensor([1.0, bad, 0.0])}, "fp16")
    assert not math.isfinite(found["bad"].amax)
    assert found["bad"].zeros == 1
    assert not math.isfinite(total(found.values()).amax)


def test_buckets_leave_nothing_out(monkeypatch):
    grads = {str(i): torch.full((i + 1,), 1e-3) for i in range(20)}
    whole = measured(grads, "fp16")
    monkeypatch.setattr("mptrain.precision.gradient_stats._BUCKET", 12)
    assert measured(grads, "fp16") == whole


def octaves(values: np.ndarray) -> dict[int, int]:
    """Count finite non-zero magnitudes by floor(log2), by numpy's frexp; what lies beyond the ends with the nearest."""
    kept = values[np.isfinite(values) & (values != 0)]
    exponents = np.clip(np.frexp(kept)[1] - 1, LOWEST_EXPONENT, HIGHEST_EXPONENT)
    return dict(zip(*(part.tolist() for part in np.unique(exponents, return_counts=True)), strict=True))


def counted(counts: torch.Tensor) -> dict[int, int]:
    """Return the same from what was measured."""
    assert counts.dtype == torch.int64
    first, trim = trimmed(counts.tolist())
    assert not trim or (trim[0] and trim[-1])
    return {first + index: count for index, count in enumerate(trim) if count}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_exponents_are_counted_as_numpy_does(dtype):
    grads = [*crafted(dtype).values(), torch.tensor([math.nan, -math.nan, math.inf, -math.inf], dtype=dtype)]
    kept = [grad.clone() for grad in grads]
    expected = octaves(np.concatenate([grad.double().numpy().ravel() for grad in grads]))
    assert counted(count_exponents(grads)) == expected
    for grad, before in zip(grads, kept, strict=True):
        torch.testing.assert_close(grad, before, rtol=0, atol=0, equal_nan=True)
    if dtype is torch.float64:
        assert expected[LOWEST_EXPONENT] > 3 * (1074 - 162)
        assert expected[HIGHEST_EXPONENT] > 3 * (1023 - 132)


def test_the_smallest_numbers_of_fp64_are_not_taken_for_zeros():
    assert counted(count_exponents([torch.tensor([5e-324, 0.0, -2e-308], dtype=torch.float64)])) == {LOWEST_EXPONENT: 2}


def test_nothing_but_zeros_has_no_exponent():
    assert trimmed(count_exponents([torch.zeros(3), torch.empty(0)]).tolist()) == (0, ())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_histogram_is_of_the_scaled_gradients(dtype):
    grads = {name: grad for name, grad in crafted(dtype).items() if name != "powers"}
    values = np.concatenate([grad.double().numpy().ravel() for grad in grads.values()])
    _, _, counts = measure({name: (grad, torch.tensor(SCALE)) for name, grad in grads.items()}, get_format("fp16"))
    assert counted(counts) == octaves(values if dtype.itemsize < 4 else values * SCALE)


def test_pieces_leave_nothing_out(monkeypatch):
    grads = [torch.randn(7, 11).t(), torch.randn(100)]
    whole = counted(count_exponents(grads))
    assert sum(whole.values()) == 177
    monkeypatch.setattr("mptrain.precision.gradient_stats._PIECE", 9)
    assert counted(count_exponents(grads)) == whole
