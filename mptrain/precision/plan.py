"""What each module gets, and why: the format it is stored in, computes in, and takes its gradient in.

Owns: the rules from mode and overrides to modules, as frozen data that prints and goes to plan.json. Must not: change
a model (`policy.py` does what the plan says) or ask a device (`capability.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn

from mptrain.config.precision import NAMED_FORMATS, OPERAND_MODES, PrecisionConfig
from mptrain.config.wording import shorten
from mptrain.errors import ConfigError
from mptrain.precision.modes import GemmFormats, Mode, get_mode
from mptrain.precision.overrides import Answer, meant_by, resolve_overrides

_ROUNDABLE = (nn.Linear, nn.modules.conv._ConvNd)
"""Layers whose products can take operands in a format of their own."""
_AUTOCAST = (*_ROUNDABLE, nn.MultiheadAttention, nn.RNNBase, nn.modules.rnn.RNNCellBase, nn.PReLU)
"""Modules that autocast runs in its format. nn.Bilinear is none: on a GPU it runs in FP32, on a CPU it fails on 16 bits
beside FP32 weights."""
_LOW = ("fp16", "bf16")
_MIXED_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
"""Norms whose kernels take FP16 or BF16 inputs beside FP32 weights, and compute in FP32."""


@dataclass(frozen=True)
class ModulePlan:
    """What one module gets."""

    name: str
    type: str
    parameters: int
    """Elements of its own parameters."""
    stored: str
    computed: str
    gradient: str
    """Format of its parameters' gradients."""
    formats: GemmFormats | None
    """Operand formats of its products, where they are below `computed`."""
    operand_mode: str | None
    """The mode whose operands these are, which says what runs them natively."""
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-able data."""
        return asdict(self)


@dataclass(frozen=True)
class Plan:
    """What every module gets, and what follows for the whole."""

    mode: Mode
    emulated: bool
    modules: tuple[ModulePlan, ...]
    regions: Mapping[str, str]
    """Module -> the format it runs in, where an override or its kind sets it apart; nested ones left out."""
    rounded: Mapping[str, str]
    """Module without products -> the 16-bit format that a rule makes it take and return, nested ones included."""

    @property
    def layers(self) -> dict[str, GemmFormats]:
        """Layers whose products take operands in formats of their own."""
        return {module.name: module.formats for module in self.modules if module.formats}

    @property
    def formats_in_use(self) -> set[str]:
        """Formats that some module computes in."""
        return {self.mode.computed} | {module.computed for module in self.modules} | set(self.regions.values())


WhyNot = Callable[[nn.Module, bool], str | None]
"""(layer, is it the last one?) -> why its products stay in the mode's format, or None."""


def make_plan(
    model: nn.Module,
    mode: Mode,
    config: PrecisionConfig,
    *,
    emulated: bool,
    why_not: WhyNot,
    called: Sequence[str] | None = None,
) -> Plan:
    """Return the plan of `mode` under `config.overrides` for a model in FP32; `why_not` filters layers for `mode.gemm`.

    `called` are the layers with products in the order of their calls; None, where unknown, means all, as they are
    registered. Others share the format of the module around them, which reads their weights itself. Raises ConfigError
    for rules that contradict one another, match nothing, or ask for what cannot be done per module.
    """
    products = layers_with_products(model)
    called = products if called is None else called
    uncalled = [name for name in products if name not in called]
    answers = resolve_overrides(model, config.overrides)
    answers = {name: answer for name, answer in answers.items() if name not in uncalled} | {
        name: answers[around] for name in uncalled if (around := name.rpartition(".")[0]) in answers
    }
    problems = [
        problem
        for name, answer in answers.items()
        for problem in _impossible(answer, mode, multiplies=not is_norm(model.get_submodule(name)), emulated=emulated)
    ]
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    last = called[-1] if called else None
    modules = []
    for name, module in model.named_modules():
        own = sum(parameter.numel() for parameter in module.parameters(recurse=False))
        if own or ((name in answers or is_norm(module)) and not list(module.children())):
            if name in uncalled:
                modules.append(_uncalled_plan(name, module, own, answers.get(name), mode))
            else:
                modules.append(_module_plan(name, module, own, answers.get(name), mode, why_not, is_last=name == last))
    _require_effect(model, modules, config, uncalled)
    apart = {p.name: p.computed for p in modules if p.name not in uncalled and _runs_apart(p, model, mode, answers)}
    rounded = {name: dtype for name, dtype in apart.items() if dtype in _LOW and _without_products(model, name)}
    regions = {name: dtype for name, dtype in apart.items() if name not in rounded and dtype != mode.computed}
    return Plan(mode, emulated, tuple(modules), _outermost(model, config, mode, regions, rounded), rounded)


def layers_with_products(model: nn.Module) -> list[str]:
    """Return the names of the linear layers and convolutions."""
    return [name for name, module in model.named_modules() if isinstance(module, _ROUNDABLE)]


def _impossible(answer: Answer, mode: Mode, *, multiplies: bool, emulated: bool) -> list[str]:
    dtypes = {answer.dtype, *answer.roles.values()} - {None}
    found = []
    if answer.dtype == "tf32" or (mode.computed == "tf32" and answer.dtype == "fp32" and multiplies):
        found.append(
            f"precision.overrides: {answer.rule}: TF32 is one switch for the whole process; choose precision=tf32 or "
            "precision=fp32 for all, or set single modules to bf16"
        )
    if mode.computed == "fp64" and (answer.roles or dtypes - set(NAMED_FORMATS)):
        found.append(
            f"precision.overrides: {answer.rule}: operands are multiplied in FP32, and {mode.name} computes in FP64; "
            "use precision=fp32"
        )
    elif "fp64" in answer.roles.values():
        found.append(f"precision.overrides: {answer.rule}: operands are multiplied in FP32, fp64 is wider; use fp32")
    elif not emulated and (answer.roles or dtypes - {*NAMED_FORMATS, *OPERAND_MODES}):
        what = "formats of single operands are" if answer.roles else f"{answer.dtype} is"
        found.append(f"precision.overrides: {answer.rule}: {what} emulated only; set precision.backend=emulated")
    return found


def _base(name: str, module: nn.Module, own: int, mode: Mode) -> ModulePlan:
    return ModulePlan(
        name, type(module).__name__, own, mode.stored, mode.computed, mode.stored, None, None, "the mode's own"
    )


def _uncalled_plan(name: str, module: nn.Module, own: int, answer: Answer | None, mode: Mode) -> ModulePlan:
    base = replace(_base(name, module, own, mode), reason="never called: the module around it reads its weight")
    return _overridden(base, module, answer, mode) if answer and answer.dtype in NAMED_FORMATS else base


def _module_plan(
    name: str, module: nn.Module, own: int, answer: Answer | None, mode: Mode, why_not: WhyNot, *, is_last: bool
) -> ModulePlan:
    base = _base(name, module, own, mode)
    if answer is not None and (answer.dtype in NAMED_FORMATS or isinstance(module, _ROUNDABLE)):
        return _overridden(base, module, answer, mode)
    if is_norm(module):
        high = "fp64" if mode.stored == "fp64" else "fp32"
        reason = "a norm" if mode.autocast else base.reason
        return replace(base, stored=high, computed=high, gradient=high, reason=reason)
    if not isinstance(module, _AUTOCAST):
        # What a model's own class does with weights of its own, autocast decides operation by operation.
        foreign = not type(module).__module__.startswith("torch.nn.")
        left = f"weights of its own: sums as stored, products in {mode.computed}" if foreign else "as stored"
        reason = left if mode.autocast else base.reason
        return replace(base, computed=mode.stored, reason=reason)
    if mode.gemm is None:
        return base
    refusal = why_not(module, is_last)
    if refusal:
        return replace(base, reason=refusal)
    reason = f"{mode.name} operands" if mode.name in OPERAND_MODES else "operands by precision.mode and formats"
    return replace(base, formats=mode.gemm, operand_mode=mode.name, reason=reason)


def _overridden(base: ModulePlan, module: nn.Module, answer: Answer, mode: Mode) -> ModulePlan:
    dtype = answer.dtype
    if dtype in NAMED_FORMATS:
        # A wider module of a low-precision mode keeps its weights wide, or the rule would gain nothing.
        stored = dtype if dtype == "fp64" or (mode.stored in _LOW and dtype == "fp32") else mode.stored
        # Autocast leaves FP64 alone, norms keep FP32 weights whatever they compute in, nothing casts those of Bilinear.
        too_wide, too_narrow = mode.stored == "fp64" != dtype, is_norm(module) and stored in _LOW
        other = isinstance(module, nn.Bilinear) and stored in _LOW and stored != dtype
        stored = "fp32" if too_wide or too_narrow or other else stored
        return replace(base, stored=stored, computed=dtype, gradient=stored, reason=answer.rule)
    own = mode.gemm or GemmFormats(mode.computed, mode.computed, mode.computed, mode.computed)
    if dtype in OPERAND_MODES:
        formats = (mode if mode.name == dtype else get_mode(dtype)).gemm or own
    elif dtype is not None:
        formats = replace(own, input=dtype, weight=dtype, grad_output_for_input=dtype, grad_output_for_weight=dtype)
    else:
        roles = answer.roles
        backward = roles.get("grad_output")
        formats = replace(
            own,
            input=roles.get("input", own.input),
            weight=roles.get("weight", own.weight),
            grad_output_for_input=backward or own.grad_output_for_input,
            grad_output_for_weight=backward or own.grad_output_for_weight,
        )
    return replace(base, formats=formats, operand_mode=dtype or mode.name, reason=answer.rule)


def is_norm(module: nn.Module) -> bool:
    """Return whether `module` normalises: torch's norms, and any class that says so in its name and is no layer."""
    named = "norm" in type(module).__name__.lower() and not isinstance(module, _AUTOCAST)
    return isinstance(module, _MIXED_NORMS) or named


def _runs_apart(plan: ModulePlan, model: nn.Module, mode: Mode, answers: Mapping[str, Answer]) -> bool:
    """Return whether a module must be run apart: by rule, or as a norm that torch does not mix."""
    answer = answers.get(plan.name)
    if answer and answer.dtype in NAMED_FORMATS:
        return True
    module = model.get_submodule(plan.name)
    if isinstance(module, nn.Bilinear):
        return mode.autocast
    return plan.computed != mode.computed and is_norm(module) and not isinstance(module, _MIXED_NORMS)


def _without_products(model: nn.Module, name: str) -> bool:
    """Return whether a module has nothing that autocast takes: a norm, nn.Bilinear, or a leaf without weights."""
    module = model.get_submodule(name)
    if list(module.children()):
        return False
    return isinstance(module, nn.Bilinear) or is_norm(module) or not list(module.parameters(recurse=False))


def _outermost(
    model: nn.Module,
    config: PrecisionConfig,
    mode: Mode,
    regions: Mapping[str, str],
    rounded: Mapping[str, str],
) -> dict[str, str]:
    """Return the regions with whole containers, where a rule names one, in place of the modules inside."""
    found = dict(regions)
    for index, rule in enumerate(config.overrides):
        if rule.role is None and rule.dtype in NAMED_FORMATS and rule.dtype != mode.computed:
            found |= {
                name: rule.dtype for name in meant_by(model, index, rule) if list(model.get_submodule(name).children())
            }
    names = [name for name, _ in model.named_modules() if name in found and name not in rounded]
    return {name: found[name] for name in names if not any(name.startswith(f"{outer}.") for outer in names)}


def _require_effect(
    model: nn.Module, modules: list[ModulePlan], config: PrecisionConfig, uncalled: Collection[str]
) -> None:
    """Refuse rules that would change nothing: for operands but not for a product, or for layers that are not called."""
    multiplying = {module.name for module in modules if module.formats}
    for index, rule in enumerate(config.overrides):
        meant = set(meant_by(model, index, rule))
        if meant <= set(uncalled):
            around = sorted({name.rpartition(".")[0] or "the model" for name in meant})
            raise ConfigError(
                f"precision.overrides[{index}]: {rule.match!r} matches only layers that are never called, since the "
                f"module around them reads their weights; match that one: {shorten(', '.join(around), 120)}"
            )
        if (rule.role or rule.dtype not in NAMED_FORMATS) and not meant & multiplying:
            raise ConfigError(
                f"precision.overrides[{index}]: {rule.match!r} matches no linear layer or convolution; operands and "
                f"{rule.dtype} exist only in their products"
            )
