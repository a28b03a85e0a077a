"""Native FP8, MXFP8 and NVFP4: near the exact step, no wait for the device, and the rules that are checked beforehand.

What needs no GPU (which layers, conversion, emulated steps) is in tests/precision.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mptrain.precision.block_scaled import convert_mx
from mptrain.precision.float8 import convert, support
from mptrain.precision.modes import FP8_RECIPES

GPU = torch.device("cuda:0")
HAS_GPU = torch.cuda.is_available()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not HAS_GPU, reason="needs an NVIDIA GPU that torch can use")]


def lent(mode: str, kind: str) -> Any:
    """A case that is skipped, with the reason, where the GPU cannot run `mode`."""
    level, reason = support(mode, torch.cuda.get_device_capability(GPU)) if HAS_GPU else ("no", "no GPU")
    return pytest.param(kind, marks=pytest.mark.skipif(level == "no", reason=f"{mode}: {reason}"))


RECIPES = [lent("fp8", recipe) for recipe in FP8_RECIPES]
KINDS = [*RECIPES, lent("mxfp8", "mxfp8"), lent("nvfp4", "nvfp4")]
FLOOR_DB = {"mxfp8": 18.0, "nvfp4": 8.0}
"""Of a gradient against FP32's; the FP8 recipes' is 17 (torchao's own tests)."""


def make_net() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(256, 512), nn.GELU(), nn.Linear(512, 256, bias=False), nn.LayerNorm(256))
    return net.to(GPU)


def converted(kind: str, net: nn.Module, *, emulate: bool = False) -> nn.Module:
    if kind == "mxfp8" or kind == "nvfp4":
        convert_mx(net, ["0", "2"], kind)
    else:
        convert(net, ["0", "2"], kind, emulate=emulate)
    return net


def step(net: nn.Module, inputs: Tensor) -> list[Tensor]:
    """Return the output and the parameters' gradients of one step under BF16 autocast."""
    net.zero_grad()
    with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
        output = net(inputs)
        loss = (output.float() - inputs).square().mean()
    loss.backward()
    return [output.float().detach(), *(parameter.grad for parameter in net.parameters() if parameter.grad is not None)]


def sqnr_db(reference: Tensor, found: Tensor) -> float:
    return float(20 * torch.log10(reference.norm() / (reference - found).norm()))


@pytest.fixture
def waits_allowed_again() -> Iterator[None]:
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_near_the_exact_one(kind: str) -> None:
    net = make_net()
    low = converted(kind, copy.deepcopy(net))
    inputs = torch.randn(64, 256, device=GPU)
    output = net(inputs)
    (output - inputs).square().mean().backward()
    exact = [output.detach(), *(parameter.grad for parameter in net.parameters())]
    for reference, found in zip(exact, step(low, inputs), strict=True):
        assert found.dtype == torch.float32
        assert FLOOR_DB.get(kind, 17.0) < sqnr_db(reference, found) < 60


@pytest.mark.parametrize("recipe", RECIPES)
def test_native_fp8_agrees_with_torchaos_emulation(recipe: str) -> None:
    inputs = torch.randn(64, 256, device=GPU)
    native = step(converted(recipe, make_net()), inputs)
    emulated = step(converted(recipe, make_net(), emulate=True), inputs)
    for a, b in zip(native, emulated, strict=True):
        assert torch.equal(a, b) or sqnr_db(b, a) > 30


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("waits_allowed_again")
def test_a_step_never_waits_for_the_device(kind: str) -> None:
    net, inputs = converted(kind, make_net()), torch.randn(64, 256, device=GPU)
    optimizer = torch.optim.AdamW(net.parameters(), fused=True)
    for attempt in range(4):
        torch.cuda.set_sync_debug_mode("error" if attempt else "default")
        step(net, inputs)
        optimizer.step()


@pytest.mark.parametrize("kind", KINDS)
def test_a_non_finite_gradient_stays_visible(kind: str) -> None:
    net = converted(kind, make_net())
    with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
        output = net(torch.randn(64, 256, device=GPU))
    gradient = torch.ones_like(output)
    gradient[3, 5] = torch.inf
    output.backward(gradient)
    assert all(not parameter.grad.isfinite().all() for parameter in net[0].parameters())


@pytest.mark.parametrize("recipe", RECIPES)
def test_odd_rows_fail_in_the_weight_gradient_only(recipe: str) -> None:
    net, inputs = converted(recipe, make_net()), torch.randn(50, 256, device=GPU)
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        assert net(inputs).isfinite().all()
    if recipe == "rowwise_with_gw_hp":
        step(net, inputs)
    else:
        with pytest.raises(RuntimeError, match="16"):
            step(net, inputs)


@pytest.mark.parametrize("kind", [lent("mxfp8", "mxfp8"), lent("nvfp4", "nvfp4")])
def test_block_scaled_layers_take_odd_rows(kind: str) -> None:
    net = converted(kind, make_net())
    assert all(found.isfinite().all() for found in step(net, torch.randn(50, 256, device=GPU)))
