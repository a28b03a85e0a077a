"""Native FP8, MXFP8 and NVFP4: linear layers whose three products torchao runs on quantised operands.

Owns: which layers that can be and pays for, and their conversion in place. Must not: choose formats (`modes.py`),
imitate them (`emulated_gemm.py`), or import torchao before it is asked for: it takes seconds.

A layer of `in` inputs and `out` outputs that sees `rows` rows (batch x sequence) computes
    output      = input @ weight.T             inner dimension in
    grad_input  = grad_output @ weight         inner dimension out
    grad_weight = grad_output.T @ input        inner dimension rows
and the hardware takes 8-bit operands only where the inner dimension and the result's columns are multiples of 16, so
`in` and `out` must be, and `rows` wherever the weight's gradient is a product of 8-bit operands.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import logging
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from typing import Literal

import torch
from torch import nn

from mptrain.errors import CapabilityError, ConfigError, first_line
from mptrain.interfaces import Tensors
from mptrain.precision.calls import calls
from mptrain.precision.fakes import NeedsValuesError
from mptrain.precision.modes import GemmFormats, Mode

NEEDS = {
    "fp8": "an NVIDIA GPU of capability 8.9 or newer",
    "mxfp8": "an NVIDIA GPU of capability 10.0 or newer",
    "nvfp4": "an NVIDIA GPU of capability 10.x",
}
"""Hardware that each mode needs, in words."""
_TORCHAO_MODULES = {
    "fp8": "torchao.float8",
    "mxfp8": "torchao.prototype.moe_training.mxfp8_linear",
    "nvfp4": "torchao.prototype.moe_training.nvfp4_training.nvfp4_linear",
}
_MULTIPLES = {"fp8": 16, "mxfp8": 32, "nvfp4": 128}
"""What both dimensions of a weight must be multiples of: 16 for the hardware, a block for MX, a tile for NVFP4."""


def support(mode: str, capability: tuple[int, int]) -> tuple[Literal["native", "no"], str]:
    """Return how a GPU of `capability` runs `fp8`, `mxfp8` or `nvfp4`, and why.

    NVFP4 stops at 10.x: torchao rounds gradients with `cvt.rs.satfinite.e2m1x4`, which 12.x does not have (PTX ISA).
    """
    found = f"{capability[0]}.{capability[1]}"
    fits = {"fp8": capability >= (8, 9), "mxfp8": capability >= (10, 0), "nvfp4": capability[0] == 10}[mode]
    return ("native", f"capability {found}: tensor cores") if fits else ("no", f"needs {NEEDS[mode]}, this is {found}")


def require_torchao(mode: str) -> None:
    """Import what torchao has for `mode`; raise CapabilityError where it is missing or does not fit this torch."""
    if importlib.util.find_spec("torchao") is None:
        raise CapabilityError(f"precision.mode: {mode} needs torchao, which is missing: pip install 'mptrain[fp8]'")
    try:
        with _quiet_import():
            importlib.import_module(_TORCHAO_MODULES[mode])
    # Built for another torch, it fails in its own ways: a name that is gone, an operator or symbol that does not exist.
    except (ImportError, AttributeError, RuntimeError, OSError, TypeError, ValueError) as error:
        raise CapabilityError(
            f"precision.mode: {mode} does not work with torchao {version('torchao')} and torch {torch.__version__} "
            f"({first_line(error)}): pip install -U 'mptrain[fp8]'"
        ) from error


@contextmanager
def _quiet_import() -> Iterator[None]:
    """Keep off the console what torchao 0.18 causes while it is imported and no user can act on.

    torch 2.14 logs that torchao registers two enums in a way that will go, and Python warns of escapes in docstrings.
    """
    logger = logging.getLogger("torch.utils._pytree")

    def is_news(record: logging.LogRecord) -> bool:
        return "is an Enum subclass" not in str(record.msg)

    logger.addFilter(is_news)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="invalid escape sequence")
            yield
    finally:
        logger.removeFilter(is_news)


def impossible(layer: nn.Module, mode: Mode) -> str | None:
    """Return why `layer` cannot run in `mode` at all, or None."""
    if not isinstance(layer, nn.Linear):
        return "not a linear layer"
    # Its own forward would be lost, or, as in nn.MultiheadAttention, it is never called and its weight read instead.
    if type(layer) is not nn.Linear:
        return f"a {type(layer).__name__}, not nn.Linear itself"
    multiple = _MULTIPLES[mode.name]
    if layer.in_features % multiple or layer.out_features % multiple:
        return f"shape (in {layer.in_features}, out {layer.out_features}): both must be multiples of {multiple}"
    return None


def why_not(layer: nn.Module, mode: Mode, *, is_last: bool) -> str | None:
    """Return why `layer` stays out of `mode` unless a rule names it, or None where it is converted.

    The last layer's outputs are logits, which lose most by rounding (torchao's own recipes leave it out too).
    """
    reason = impossible(layer, mode)
    if reason:
        return reason
    if is_last:
        return "last layer"
    assert isinstance(layer, nn.Linear)
    return _too_small(layer.in_features, layer.out_features, mode.gemm) if mode.name == "fp8" else None


def _too_small(inputs: int, outputs: int, formats: GemmFormats | None) -> str | None:
    """Return why FP8 costs more than it saves in a layer of this size.

    The limits are torchao's, measured on H100s (`_auto_filter_for_tensorwise` and `_auto_filter_for_rowwise` in
    torchao/float8/float8_linear_utils.py). It has none for rowwise_with_gw_hp, which takes rowwise's, nor for MXFP8
    and NVFP4.
    """
    if formats and formats.scaling == "tensor":
        rule, small = "in <= 4096 and out <= 1024", inputs <= 4096 and outputs <= 1024
    else:
        rule = "out <= 2048, in <= 1024, or out <= 4096 and in <= 2048"
        small = outputs <= 2048 or inputs <= 1024 or (outputs <= 4096 and inputs <= 2048)
    return f"too small to pay (in {inputs}, out {outputs}; on an H100 FP8 loses where {rule})" if small else None


def payoff_notices(model: nn.Module, converted: Collection[str], mode: Mode, *, compiled: bool) -> list[str]:
    """Return why `mode` will hardly be faster than BF16 on `model`, of which the layers `converted` are to run in it.

    Most weights must be multiplied in it, since all else runs as before; and quantising an operand is a handful of
    small operations, which only a compiler fuses (torchao's float8 README asks for torch.compile).
    """
    layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)}
    attentions = [m for m in model.modules() if isinstance(m, nn.MultiheadAttention)]
    weights = sum(m.weight.numel() for m in layers.values())
    weights += sum(p.numel() for m in attentions for name, p in m.named_parameters(recurse=False) if "weight" in name)
    share = sum(layers[name].weight.numel() for name in converted) / weights
    found = []
    if share < 0.5:
        found.append(
            f"{mode.name} will hardly be faster than bf16 on this model: it reaches {len(converted)} of {len(layers)} "
            f"layers, {share:.0%} of the weights that are multiplied; `mptrain plan` says why not the others"
        )
    if not compiled:
        found.append(
            f"{mode.name} without train.compile is usually slower than bf16: each operand is quantised in several "
            "small kernels, which the compiler fuses"
        )
    return found


def convert(model: nn.Module, names: Collection[str], recipe: str, *, emulate: bool = False) -> None:
    """Convert the linear layers `names` of `model` to torchao's FP8 `recipe`, in place; parameters stay as they are.

    Inputs are rounded from autocast's format and weights from their own (FP32), and outputs are in the former.
    `emulate` runs anywhere, for tests: it rounds the same and multiplies in FP32. Raises CapabilityError.
    """
    require_torchao("fp8")
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    # Float8Linear asks for autocast's format by a name that torch deprecates; at 2 us a call it is only noise.
    warnings.filterwarnings("ignore", r"torch\.get_autocast_gpu_dtype\(\) is deprecated", DeprecationWarning)
    config = dataclasses.replace(Float8LinearConfig.from_recipe_name(recipe), emulate=emulate)
    replace_layers(model, names, partial(convert_to_float8_training, config=config))


def replace_layers(model: nn.Module, names: Collection[str], make: Callable[[nn.Module], nn.Module]) -> None:
    """Put `make(layer)` in place of each layer of `names`, under every name that the model holds it by."""
    made = {layer: make(layer) for layer in map(model.get_submodule, names)}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if module in made:
            model.set_submodule(name, made[module])


def row_multiple(mode: Mode) -> int:
    """Return what the rows that a layer in `mode` sees must be a multiple of."""
    if mode.name != "fp8" or mode.gemm is None or mode.gemm.high_precision_grad_weight:
        return 1
    return _MULTIPLES["fp8"]


def check_rows(
    model: nn.Module, names: Collection[str], mode: Mode, inputs: Tensors, batch_sizes: Collection[int]
) -> None:
    """Raise ConfigError where a layer of `names`, not yet converted, sees rows that FP8 cannot take in training.

    Only shapes are computed (on fake tensors: no device, no memory, no state), for each of `batch_sizes`: the
    micro-batch's and, where it is kept, the smaller last one's. `inputs` (N, ...) is any micro-batch as the model takes
    it; call under the policy's autocast. MXFP8 and NVFP4 layers pad rows by themselves; rowwise_with_gw_hp multiplies
    the weight's gradient in high precision.
    """
    multiple = row_multiple(mode)
    if multiple == 1:
        return
    problems = []
    for size in sorted(set(batch_sizes), reverse=True):
        try:
            seen = calls(model, names, inputs, size)
        except NeedsValuesError as error:
            raise ConfigError(
                "precision.mode: fp8 must know how many rows each layer sees, and this model's forward decides by "
                f"tensor values ({error}); use precision=bf16"
            ) from error
        wrong = {name: rows for name, rows in seen if rows % multiple}
        if wrong:
            name, rows = next(iter(wrong.items()))
            others = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            rest = "a last batch" if size != max(batch_sizes) else "a batch"
            problems.append(
                f"precision.mode: fp8: {name}{others} sees {rows} rows in {rest} of {size}, and its weight's gradient "
                f"needs a multiple of {multiple}; {_remedy(rest)}, or use precision.fp8.recipe=rowwise_with_gw_hp"
            )
    if problems:
        raise ConfigError(problems)


def _remedy(rest: str) -> str:
    return "set data.drop_last=true" if rest == "a last batch" else "choose data.batch_size (times length) to fit"
