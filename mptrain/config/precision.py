"""The `precision` section: number formats per mode, module and role, emulation, phases, loss scaling.

Owns: its keys, defaults and the rules between them that need no model and no device. Must not: import torch; what a
device can run is `mptrain.precision.capability`'s business, what a module gets `mptrain.precision.plan`'s.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, Strict, WithJsonSchema, model_validator

from mptrain.config.migration import renamed_mode
from mptrain.config.section import Fraction, PositiveFloat, PositiveInt, Section
from mptrain.config.wording import nearest, shorten

# fmt: off
NamedMode = Literal[
    "auto", "fp64", "fp32", "tf32", "fp16", "bf16", "fp16-master", "bf16-master", "fp16-pure", "bf16-pure",
    "fp8", "mxfp8", "nvfp4",
]
# fmt: on
PRECISION_MODES: tuple[str, ...] = get_args(NamedMode)
NAMED_FORMATS = ("fp64", "fp32", "tf32", "fp16", "bf16")
OPERAND_MODES = ("fp8", "mxfp8", "nvfp4")
"""Modes that round the operands of products, and can be asked for per module."""
FREE_FORMAT = re.compile(r"(?!e1m0$)e([1-8])m([0-9]|1[0-9]|2[0-3])")
"""`eXmY`: X exponent and Y mantissa bits, within what FP32 can hold; e1m0 would hold nothing but zero."""


def _format_name(value: Any, also: tuple[str, ...] = ()) -> Any:
    if not isinstance(value, str) or value in (*NAMED_FORMATS, *also) or FREE_FORMAT.fullmatch(value):
        return value
    names = ", ".join((*NAMED_FORMATS, *also))
    raise ValueError(f"{shorten(repr(value))} is not a number format; one of {names}, or eXmY, e.g. e4m3")


def _override_name(value: Any) -> Any:
    return _format_name(value, OPERAND_MODES)


def _mode_name(value: Any) -> Any:
    answer = renamed_mode(value)
    if answer:
        raise ValueError(answer)
    if not isinstance(value, str) or value in PRECISION_MODES or FREE_FORMAT.fullmatch(value):
        return value
    lowered = value.lower()
    near = lowered if lowered in PRECISION_MODES else nearest(lowered, PRECISION_MODES)
    hint = f" (did you mean {near!r}?)" if near else ""
    raise ValueError(f"{shorten(repr(value))} is not one of {', '.join(PRECISION_MODES)}, or a format eXmY{hint}")


_FREE_SCHEMA = {"type": "string", "pattern": f"^{FREE_FORMAT.pattern}$"}
FormatName = Annotated[
    str,
    BeforeValidator(_format_name),
    WithJsonSchema({"anyOf": [{"enum": list(NAMED_FORMATS)}, _FREE_SCHEMA]}),
]
OverrideFormat = Annotated[
    str,
    BeforeValidator(_override_name),
    WithJsonSchema({"anyOf": [{"enum": [*NAMED_FORMATS, *OPERAND_MODES]}, _FREE_SCHEMA]}),
]
PrecisionMode = Annotated[
    str,
    BeforeValidator(_mode_name),
    WithJsonSchema({"anyOf": [{"enum": list(PRECISION_MODES)}, _FREE_SCHEMA]}),
]
Rounding = Literal["nearest", "stochastic", "kahan"]
Backend = Literal["auto", "native", "emulated"]
Role = Literal["input", "weight", "grad_output"]
OnSkip = Literal["drop", "retry", "count"]


class LossScaleGroupConfig(Section):
    """Modules whose gradients are scaled apart from the rest."""

    match: str
    """Which modules: a glob over their names (`layer4.*`), `re:` a regular expression, or `type:` a class name."""
    init_scale: PositiveFloat | None = None
    """First scale of these modules; null takes the section's init_scale."""


class LossScaleConfig(Section):
    """How the loss is scaled so that small gradients survive the format."""

    kind: Literal["auto", "dynamic", "static", "none", "histogram"] = "auto"
    """auto: dynamic where FP16 is computed, else none; histogram follows the gradients' magnitudes; none is 1."""
    init_scale: PositiveFloat = 65536.0
    """First loss scale (the constant one for static)."""
    growth_factor: Annotated[float, Field(gt=1)] = 2.0
    """The scale (histogram: its ceiling after an overflow) is multiplied by this after growth_interval good steps."""
    backoff_factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """The scale is multiplied by this after an overflow."""
    growth_interval: PositiveInt = 2000
    """Steps in a row without overflow before the scale (histogram: its ceiling) grows."""
    min_scale: PositiveFloat = 1.0
    """The scale never falls below this; overflowing there means that scaling cannot help."""
    max_scale: PositiveFloat = 2.0**24
    """The scale never grows above this."""
    hysteresis: PositiveInt = 1
    """dynamic: overflows to spend before the scale backs off; refilled whenever it grows. 1: back off at once."""
    underflow_target: Fraction = 0.001
    """histogram: share of the gradient elements that may be lost, below FP16's smallest subnormal."""
    headroom: Annotated[float, Field(ge=0)] = 3.0
    """histogram: powers of two kept free between the largest gradient and FP16's maximum."""
    histogram_every: PositiveInt = 10
    """histogram: attempted steps between two looks at the gradients."""
    on_skip: OnSkip = "drop"
    """A skipped step's batch is dropped, retried at the lower scale (one device wait a step), or counted as a step."""
    groups: Annotated[tuple[LossScaleGroupConfig, ...], Strict(False)] = ()
    """Modules with a scale of their own."""

    @model_validator(mode="after")
    def _values_agree(self) -> LossScaleConfig:
        bounds = f"min_scale {self.min_scale:g} and max_scale {self.max_scale:g}"
        for scale in (self.init_scale, *(group.init_scale for group in self.groups)):
            if scale is not None and not self.min_scale <= scale <= self.max_scale:
                raise ValueError(f"init_scale {scale:g} must lie between {bounds}")
        if self.kind in ("static", "none") and self.on_skip == "retry":
            raise ValueError(
                f"on_skip 'retry' needs a scale that can move, and kind '{self.kind}' is constant; use drop"
            )
        if self.kind == "none" and self.groups:
            raise ValueError("groups need a loss scale; kind 'none' has none")
        return self


class Fp8Config(Section):
    """FP8 training as torchao defines it."""

    recipe: Literal["tensorwise", "rowwise", "rowwise_with_gw_hp"] = "tensorwise"
    """One scale per tensor (fastest), per row (most accurate), or per row with the weight gradient in BF16."""


class GemmFormatsConfig(Section):
    """Formats of the operands of matrix products and convolutions (emulated)."""

    forward: FormatName | None = None
    """Format of input and weight, in the forward product and wherever they return in the backward."""
    grad_input: FormatName | None = None
    """Format of the output's gradient in the product that gives the input's gradient; null takes the mode's own."""
    grad_weight: FormatName | None = None
    """Format of the output's gradient in the product that gives the weight's gradient; null takes the mode's own."""
    scaling: Literal["none", "tensor", "row", "block"] | None = None
    """Elements that share a scale; null takes the mode's own."""
    block_size: PositiveInt | None = None
    """Elements per block along the product's inner dimension; null takes the mode's own (32)."""


class OverrideConfig(Section):
    """Another format for some modules."""

    match: str
    """Which modules: a glob over their names (`layer4.*`), `re:` a regular expression, or `type:` a class name."""
    dtype: OverrideFormat
    """The format they compute in; fp8, mxfp8, nvfp4 and eXmY are those of their products' operands."""
    role: Role | None = None
    """Only this operand of their products (emulated); null means the whole module."""


class PhaseConfig(Section):
    """One stretch of the run in one precision."""

    until: PositiveFloat
    """Where it ends: up to 1 a share of the run, above 1 an applied step."""
    mode: PrecisionMode
    """The precision until then."""
    rounding: Rounding = "nearest"
    """Rounding of `-pure` weights in this phase."""


class PrecisionConfig(Section):
    """Which number formats the run computes in."""

    mode: PrecisionMode = "auto"
    """A mode of `mptrain ls precisions`, or eXmY (emulated); auto is the best this device runs natively."""
    backend: Backend = "auto"
    """auto and native: what the device runs natively, else refuse; emulated: any format anywhere, for study."""
    rounding: Rounding = "nearest"
    """`-pure` modes: how an update is rounded into the weights."""
    fp8: Fp8Config = Fp8Config()
    """Mode fp8: its recipe."""
    formats: GemmFormatsConfig = GemmFormatsConfig()
    """Formats of single products (emulated)."""
    overrides: Annotated[tuple[OverrideConfig, ...], Strict(False)] = ()
    """Modules with another format; two answers for one module are an error."""
    phases: Annotated[tuple[PhaseConfig, ...], Strict(False)] = ()
    """Precisions in turn, instead of mode; state is carried over."""
    loss_scale: LossScaleConfig = LossScaleConfig()
    """Loss scaling; a bare number is a static scale."""

    @model_validator(mode="after")
    def _keys_agree(self) -> PrecisionConfig:
        if self.rounding != "nearest" and not self.mode.endswith("-pure"):
            raise ValueError(f"rounding '{self.rounding}' needs mode fp16-pure or bf16-pure, not '{self.mode}'")
        if self.backend != "emulated" and self.formats != GemmFormatsConfig():
            raise ValueError("formats are emulated: set backend to emulated, or leave formats out")
        _check_formats(self)
        if self.fp8 != Fp8Config() and "fp8" not in (self.mode, *(phase.mode for phase in self.phases)):
            raise ValueError(f"fp8.recipe needs mode fp8, not '{self.mode}'")
        _check_phases(self)
        return self


def _check_formats(config: PrecisionConfig) -> None:
    chosen = config.formats
    if chosen == GemmFormatsConfig():
        return
    names = [name for name in (chosen.forward, chosen.grad_input, chosen.grad_weight) if name is not None]
    modes = [config.mode, *(phase.mode for phase in config.phases)]
    if "fp64" in (*names, *modes):
        raise ValueError("formats: products are emulated in FP32, which fp64 is wider than; use fp32")
    if chosen.grad_weight and config.fp8.recipe == "rowwise_with_gw_hp":
        raise ValueError(
            "formats.grad_weight: fp8.recipe rowwise_with_gw_hp rounds no operand of that product; drop one"
        )
    if chosen.block_size and chosen.scaling not in (None, "block"):
        raise ValueError(f"formats.block_size needs scaling block, not {chosen.scaling}")
    scaled = any(FREE_FORMAT.fullmatch(name) for name in (*names, *modes)) or set(modes) & set(OPERAND_MODES)
    if (chosen.scaling or chosen.block_size) and not scaled:
        raise ValueError(
            f"formats.scaling: nothing here is scaled, {names[0] if names else config.mode} is only rounded to; name "
            "an eXmY format (forward, grad_input, grad_weight) too"
        )


def _check_phases(config: PrecisionConfig) -> None:
    if not config.phases:
        return
    if config.mode != "auto" or config.rounding != "nearest":
        raise ValueError("give mode (and rounding) or phases, not both: each phase has its own")
    for phase in config.phases:
        if phase.rounding != "nearest" and not phase.mode.endswith("-pure"):
            raise ValueError(f"phases: rounding '{phase.rounding}' needs a -pure mode, not '{phase.mode}'")
    shares = [phase.until <= 1 for phase in config.phases]
    ends = [phase.until for phase in config.phases]
    for kind in (True, False):
        same_kind = [end for end, share in zip(ends, shares, strict=True) if share is kind]
        if same_kind != sorted(set(same_kind)):
            raise ValueError(f"phases must end one after the other, not at {', '.join(f'{end:g}' for end in ends)}")
    if ends[-1] < 1:
        raise ValueError(f"the last phase must last to the end: until 1.0, not {ends[-1]:g}")
