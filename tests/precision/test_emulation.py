"""Emulated FP16, BF16 and TF32 products against native ones and against arithmetic in FP64."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mptrain.precision.emulation import Fp32Accumulation, Tf32Products

LOW = [torch.float16, torch.bfloat16]


def sqnr_db(value: Tensor, reference: Tensor) -> float:
    value, reference = value.double(), reference.double()
    noise = (value - reference).norm().item()
    return 20 * math.log10(reference.norm().item() / noise) if noise else math.inf


class SmallConvnet(nn.Module):
    """Strided, grouped, dilated and biased convolutions, a norm, a residual sum and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.down = nn.Conv2d(8, 16, 3, stride=2, dilation=2, padding=2)
        self.up = nn.ConvTranspose2d(16, 4, 2, stride=2)
        self.head = nn.Linear(4 * 8 * 8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = x + F.relu(self.grouped(x))
        x = F.relu(self.up(self.down(x)))
        return self.head(x.flatten(1))


def train_once(model: nn.Module, inputs: Tensor, arithmetic: Any, low: torch.dtype, scale: float = 256.0) -> Tensor:
    """Run one forward and backward as the trainer does and return the loss; gradients are left scaled."""
    targets = torch.arange(len(inputs)) % 10
    with arithmetic:
        with torch.autocast("cpu", dtype=low, cache_enabled=False):
            loss = F.cross_entropy(model(inputs).float(), targets)
        (loss * scale).backward()
    return loss


def gradients(model: nn.Module) -> dict[str, Tensor]:
    found = {name: param.grad for name, param in model.named_parameters() if param.grad is not None}
    assert len(found) == len(list(model.parameters()))
    return found


@pytest.fixture
def convnets() -> tuple[SmallConvnet, SmallConvnet, Tensor]:
    torch.manual_seed(0)
    first, second = SmallConvnet(), SmallConvnet()
    second.load_state_dict(first.state_dict())
    return first, second, torch.randn(8, 3, 8, 8)


@pytest.mark.parametrize(("low", "floor"), [(torch.float16, 55.0), (torch.bfloat16, 36.0)])
def test_a_convnet_agrees_with_native_arithmetic_in_every_gradient(
    convnets: tuple[SmallConvnet, SmallConvnet, Tensor], low: torch.dtype, floor: float
) -> None:
    # Both round each operation to 2**-12 (FP16: 72 dB) or 2**-9 (BF16: 54 dB) and differ where sums are ordered
    # differently, in about one rounding in ten, over some ten operations.
    native, emulated, inputs = convnets
    native_loss = train_once(native, inputs, nullcontext(), low)
    emulated_loss = train_once(emulated, inputs, Fp32Accumulation(), low)
    torch.testing.assert_close(emulated_loss, native_loss, rtol=1e-3, atol=0)
    expected = gradients(native)
    for name, grad in gradients(emulated).items():
        assert sqnr_db(grad, expected[name]) > floor, name


def test_an_overflow_becomes_infinite_in_the_gradients_as_it_does_natively(
    convnets: tuple[SmallConvnet, SmallConvnet, Tensor],
) -> None:
    native, emulated, inputs = convnets
    train_once(native, inputs, nullcontext(), torch.float16, scale=2.0**24)
    train_once(emulated, inputs, Fp32Accumulation(), torch.float16, scale=2.0**24)
    non_finite = {name for name, grad in gradients(native).items() if not grad.isfinite().all()}
    assert non_finite
    assert non_finite == {name for name, grad in gradients(emulated).items() if not grad.isfinite().all()}


@pytest.mark.parametrize("low", LOW)
def test_activations_and_their_gradients_are_real_low_precision_tensors(
    convnets: tuple[SmallConvnet, SmallConvnet, Tensor], low: torch.dtype
) -> None:
    model, _, inputs = convnets
    seen: dict[str, torch.dtype] = {}

    def probe(name: str, output: Tensor) -> None:
        seen[f"{name} output"] = output.dtype
        output.register_hook(lambda grad: seen.__setitem__(f"{name} gradient", grad.dtype))

    for name, module in model.named_children():
        module.register_forward_hook(lambda module, args, output, name=name: probe(name, output))
    train_once(model, inputs, Fp32Accumulation(), low)
    assert len(seen) == 12
    assert set(seen.values()) == {low}
    assert {param.grad.dtype for param in model.parameters() if param.grad is not None} == {torch.float32}


# name -> (operation, shapes of its tensors)
OPERATIONS: dict[str, tuple[Any, list[tuple[int, ...]]]] = {
    "mm": (torch.mm, [(5, 64), (64, 7)]),
    "bmm": (torch.bmm, [(2, 5, 64), (2, 64, 7)]),
    "mv": (torch.mv, [(5, 64), (64,)]),
    "dot": (torch.dot, [(64,), (64,)]),
    "addmm": (torch.addmm, [(7,), (5, 64), (64, 7)]),
    "addmm with factors": (lambda *a: torch.addmm(*a, beta=0.5, alpha=2.0), [(5, 7), (5, 64), (64, 7)]),
    "baddbmm": (torch.baddbmm, [(2, 5, 7), (2, 5, 64), (2, 64, 7)]),
    "addmv": (torch.addmv, [(5,), (5, 64), (64,)]),
    "conv1d": (lambda x, w, b: F.conv1d(x, w, b, stride=2), [(2, 16, 9), (4, 16, 3), (4,)]),
    "conv2d": (lambda x, w: F.conv2d(x, w, padding="same"), [(2, 8, 6, 6), (4, 8, 3, 3)]),
    "conv3d": (lambda x, w: F.conv3d(x, w, groups=2), [(2, 8, 4, 4, 4), (4, 4, 2, 2, 2)]),
    "conv_transpose2d": (F.conv_transpose2d, [(2, 8, 4, 4), (8, 4, 2, 2), (4,)]),
    "linear": (F.linear, [(2, 5, 64), (7, 64), (7,)]),
    "attention": (F.scaled_dot_product_attention, [(2, 2, 6, 8), (2, 2, 6, 8), (2, 2, 6, 8)]),
    "masked attention": (
        lambda q, k, v, mask: F.scaled_dot_product_attention(q, k, v, mask.detach()),
        [(2, 2, 6, 8), (2, 2, 6, 8), (2, 2, 6, 8), (6, 6)],
    ),
}
PLAIN_PRODUCTS = [name for name in OPERATIONS if "attention" not in name]


def operands(shapes: list[tuple[int, ...]], dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]


def forward_and_backward(operation: Any, tensors: list[Tensor], arithmetic: Any) -> list[Tensor | None]:
    with arithmetic:
        output = operation(*tensors)
        torch.manual_seed(2)
        grad_output = torch.randn(output.shape).bfloat16().to(output.dtype)  # the same in all formats
        grads = torch.autograd.grad(output, tensors, grad_output, allow_unused=True)
    return [output.detach(), *grads]


@pytest.mark.parametrize("low", LOW)
@pytest.mark.parametrize("name", PLAIN_PRODUCTS)
def test_each_operation_is_rounded_once_from_wide_sums(name: str, low: torch.dtype) -> None:
    """Nearly every element is the nearest number to the FP64 result; the rest lie on a tie as FP32 sees it."""
    operation, shapes = OPERATIONS[name]
    tensors = operands(shapes, low)
    wide = [tensor.detach().double().requires_grad_() for tensor in tensors]
    results = forward_and_backward(operation, tensors, Fp32Accumulation())
    reference = forward_and_backward(operation, wide, nullcontext())
    for result, exact in zip(results, reference, strict=True):
        if result is None or exact is None:
            assert result is exact
            continue
        assert result.dtype == low
        nearest = exact.to(torch.float32).to(low)
        assert (result == nearest).double().mean() >= 0.99
        torch.testing.assert_close(result, nearest, rtol=2 * torch.finfo(low).eps, atol=2e-2 * float(exact.abs().max()))


@pytest.mark.parametrize("low", LOW)
@pytest.mark.parametrize("name", ["attention", "masked attention"])
def test_fused_attention_is_as_exact_as_its_operands_allow(name: str, low: torch.dtype) -> None:
    """The output is rounded once; gradients are about the native kernel's, which rounds the probabilities too."""
    operation, shapes = OPERATIONS[name]
    tensors = operands(shapes, low)
    results = forward_and_backward(operation, tensors, Fp32Accumulation())
    native = forward_and_backward(operation, tensors, nullcontext())
    exact = forward_and_backward(operation, [t.detach().double().requires_grad_() for t in tensors], nullcontext())
    assert exact[0] is not None
    assert results[0] is not None
    assert (results[0] == exact[0].float().to(low)).double().mean() >= 0.99
    for result, other, reference in zip(results[:4], native, exact, strict=False):
        assert result is not None
        assert other is not None
        assert reference is not None
        assert result.dtype == low
        assert sqnr_db(result, reference) > sqnr_db(other, reference) - 4


@pytest.mark.parametrize("low", LOW)
def test_every_gradient_leaves_its_operation_in_low_precision(low: torch.dtype) -> None:
    """Called directly: autograd would cast a gradient left in FP32 without a word, and uncounted."""
    x, weight = torch.randn(2, 4, 5, 5).to(low), torch.randn(6, 4, 3, 3).to(low)
    geometry = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)
    q = torch.randn(2, 2, 6, 8).to(low)
    with Fp32Accumulation():
        grads = torch.ops.aten.convolution_backward(
            torch.randn(2, 6, 5, 5).to(low), x, weight, [6], *geometry, [True, True, True]
        )
        some = torch.ops.aten.convolution_backward(
            torch.randn(2, 6, 5, 5).to(low), x, weight, [6], *geometry, [False, True, False]
        )
        output, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, q, q)
        back = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            q, q, q, q, output, log_sum, 0.0, False
        )
    assert [grad.dtype for grad in (*grads, output, *back)] == [low] * 7
    assert log_sum.dtype == torch.float32
    assert [grad is None for grad in some] == [True, False, True]


class Names(TorchDispatchMode):
    """Records which operations run, and the dtype of their first tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[str, torch.dtype]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in args:
            if isinstance(value, Tensor):
                self.seen.add((func.name(), value.dtype))
        return func(*args, **(kwargs or {}))


@contextmanager
def recorded(inner: TorchDispatchMode) -> Iterator[Names]:
    """Enter `inner` over a recorder of what it runs in the end."""
    names = Names()
    with names, inner:
        yield names


PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "mv", "addmv", "dot", "convolution", "attention")


@pytest.mark.parametrize("low", LOW)
def test_no_product_of_a_convnet_or_transformer_runs_in_low_precision(low: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    with recorded(Fp32Accumulation()) as names, torch.autocast("cpu", dtype=low, cache_enabled=False):
        layer(torch.randn(2, 5, 16)).sum().backward()
        SmallConvnet()(torch.randn(2, 3, 8, 8)).sum().backward()
        nn.MultiheadAttention(16, 2)(*[torch.randn(5, 2, 16)] * 3)[0].sum().backward()
    products = {(name, dtype) for name, dtype in names.seen if any(word in name for word in PRODUCTS)}
    assert {name for name, _ in products} >= {
        "aten::mm", "aten::addmm", "aten::bmm", "aten::convolution", "aten::convolution_backward",
        "aten::_scaled_dot_product_flash_attention_for_cpu",
    }  # fmt: skip
    assert {dtype for _, dtype in products} == {torch.float32}
    assert any(dtype == low for _, dtype in names.seen)


def test_fp32_and_integer_operations_pass_through_bit_for_bit() -> None:
    torch.manual_seed(0)
    a, b, counts = torch.randn(4, 5), torch.randn(5, 6), torch.arange(6).reshape(2, 3)
    with Fp32Accumulation() as mode:
        mode.count_underflow = True
        assert torch.equal(a @ b, torch.mm(a, b))
        assert torch.equal(counts @ counts.T, torch.tensor([[5, 14], [14, 50]]))
    assert mode.underflow_counts().tolist() == [0, 0, 0, 0]


def test_what_rounding_does_to_products_is_counted_exactly() -> None:
    tiny, small, big = 2.0**-14, 2.0**-20, 2.0**15
    left = torch.tensor([[tiny, small, big, 1.0, 0.0]], dtype=torch.float16).T.contiguous()
    right = torch.tensor([[small, 2.0**-3, 4.0, 1.0, math.inf]], dtype=torch.float16)
    # products, by rows (left) and columns (right):
    #   2^-14: 2^-34 zero, 2^-17 subnormal, 2^-12, 2^-14, inf already in FP32
    #   2^-20: 2^-40 zero, 2^-23 subnormal, 2^-18 subnormal, 2^-20 subnormal, inf
    #   2^15:  2^-5, 2^12, 2^17 infinite, 2^15, inf
    #   1:     2^-20 subnormal, 2^-3, 4, 1, inf
    #   0:     0, 0, 0, 0, NaN
    mode = Fp32Accumulation()
    with mode:
        left @ right
        assert mode.underflow_counts().tolist() == [0, 0, 0, 0]  # not asked yet
        mode.count_underflow = True
        left @ right
        assert mode.underflow_counts().tolist() == [21, 2, 5, 1]
        left @ right
    assert mode.underflow_counts().tolist() == [42, 4, 10, 2]
    mode.reset_underflow_counts()
    assert mode.underflow_counts().tolist() == [0, 0, 0, 0]


def test_underflow_of_a_backward_alone_is_counted_and_scaling_removes_it() -> None:
    torch.manual_seed(0)

    def count(scale: float) -> list[int]:
        model, mode = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 8)), Fp32Accumulation()
        with mode:
            with torch.autocast("cpu", dtype=torch.float16, cache_enabled=False):
                loss = model(torch.randn(16, 32)).float().square().mean() * 1e-5
            mode.count_underflow = True
            (loss * scale).backward()
            mode.count_underflow = False
            model[0].weight.half() @ model[0].weight.half()  # not the backward's
        return mode.underflow_counts().tolist()

    unscaled, scaled = count(1.0), count(2.0**16)
    # grad_weight (32 x 32), grad_weight (8 x 32) and grad_input (16 x 32) of the second layer
    assert scaled[0] == 32 * 32 + 8 * 32 + 16 * 32
    assert unscaled[1] > 0.05 * unscaled[0]
    assert unscaled[2] > 0.5 * unscaled[0]
    assert scaled[1] < 0.001 * scaled[0]
    assert scaled[3] == 0


def tf32_by_hand(x: Tensor) -> Tensor:
    """Round to 11 significant bits in FP64; numpy's and torch's round are to even."""
    mantissa, exponent = torch.frexp(x.double())
    return torch.ldexp((mantissa * 2**11).round() / 2**11, exponent)


@pytest.mark.parametrize("name", PLAIN_PRODUCTS)
def test_tf32_operands_are_rounded_and_nothing_else(name: str) -> None:
    operation, shapes = OPERATIONS[name]
    tensors = operands(shapes, torch.float32)
    results = forward_and_backward(operation, tensors, Tf32Products())
    added = {"addmm": 0, "addmm with factors": 0, "baddbmm": 0, "addmv": 0}.get(name)
    bias = added if added is not None else (2 if len(shapes) == 3 else None)
    wide = [
        (t.detach().double() if index == bias else tf32_by_hand(t.detach())).requires_grad_()
        for index, t in enumerate(tensors)
    ]
    reference = forward_and_backward(operation, wide, nullcontext())
    # A vector's gradient is an outer product, which takes no tensor core: elementwise, and so in FP32.
    compared = 1 if name in ("mv", "dot", "addmv") else len(results)
    for result, exact in zip(results[:compared], reference[:compared], strict=True):
        assert result is not None
        assert exact is not None
        assert result.dtype == torch.float32
        assert sqnr_db(result, exact) > 120  # FP32's own rounding; TF32's would be 75 dB


def test_tf32_keeps_what_is_representable_bit_for_bit_and_drops_the_twelfth_bit() -> None:
    torch.manual_seed(0)
    small_integers = torch.randint(-1024, 1025, (6, 5)).float()
    others = torch.randint(-16, 17, (5, 4)).float()
    with Tf32Products():
        assert torch.equal(small_integers @ others, (small_integers.double() @ others.double()).float())
        ties = torch.tensor([[1 + 2.0**-11, 1 + 3 * 2.0**-11, 1 + 2.0**-11 + 2.0**-23]])
        assert (ties.T @ torch.ones(1, 1)).flatten().tolist() == [1.0, 1 + 2.0**-9, 1 + 2.0**-10]


def test_tf32_leaves_a_convolutions_bias_gradient_unrounded() -> None:
    layer, grad_output = nn.Conv2d(1, 1, 1), torch.full((1, 1, 1, 1), 1 + 2.0**-12)
    with Tf32Products():
        layer(torch.ones(1, 1, 1, 1)).backward(grad_output)
    assert layer.bias is not None
    assert layer.bias.grad is not None
    assert layer.weight.grad is not None
    assert layer.bias.grad.item() == 1 + 2.0**-12
    assert layer.weight.grad.item() == 1.0


def test_tf32_rounds_the_operands_of_attention() -> None:
    operation, shapes = OPERATIONS["attention"]
    tensors = operands(shapes, torch.float32)
    results = forward_and_backward(operation, tensors, Tf32Products())
    exact = forward_and_backward(operation, [t.detach().double().requires_grad_() for t in tensors], nullcontext())
    for result, reference in zip(results, exact, strict=True):
        assert result is not None
        assert reference is not None
        assert 55 < sqnr_db(result, reference) < 90
