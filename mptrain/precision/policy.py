"""What the user asks for, as an object the trainer calls: FP32 is the case in which every method does nothing.

Owns: the mode chosen, the plan carried out on a model, autocast, emulation, and the record of what is in force. Must
not: choose a mode quietly; what a device cannot run natively is an error (`mptrain.precision.capability`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import torch
from torch import nn

from mptrain.config.precision import GemmFormatsConfig, PrecisionConfig
from mptrain.errors import ConfigError
from mptrain.interfaces import Batch, Tensors, map_tensors
from mptrain.precision import block_scaled, capability, float8
from mptrain.precision.calls import calls
from mptrain.precision.emulated_gemm import coverable, emulate_layer
from mptrain.precision.emulation import Fp32Accumulation, Tf32Products
from mptrain.precision.fakes import NeedsValuesError
from mptrain.precision.in_force import InForce
from mptrain.precision.loss_scaler import LossScaler
from mptrain.precision.modes import Mode, get_mode, with_formats
from mptrain.precision.plan import Plan, layers_with_products, make_plan
from mptrain.precision.regions import DTYPES, round_around, run_in, run_lstm_in_fp16
from mptrain.precision.scale_groups import make_grouped_scaler
from mptrain.precision.tf32 import set_tf32, tf32_state
from mptrain.precision.weight_rounding import FORMAT_OF, pure_notices
from mptrain.precision.weights import StoreKind, WeightStore, make_weight_store


class PrecisionPolicy:
    """One precision on one device; `prepare` a model before its first forward."""

    def __init__(self, mode: Mode, config: PrecisionConfig, device: torch.device, reason: str) -> None:
        self.mode, self.config, self.device, self.reason = mode, config, device, reason
        self.emulated = config.backend == "emulated"
        self.plan = Plan(mode, self.emulated, (), {}, {})
        self._autocast_dtype = DTYPES[mode.computed] if mode.autocast else None
        self._emulations: list[Fp32Accumulation | Tf32Products] = []
        self.batch_multiple = 1
        """What parts of a micro-batch must be multiples of: FP8's products over rows want whole tiles of them."""

    def apply_global_settings(self) -> None:
        """Set what torch keeps per process: TF32, and no fast path of encoders.

        In evaluation that path reads a layer's weights without calling the layer: whatever the plan gave it would be
        passed over.
        """
        set_tf32(self.mode.computed == "tf32" and not self.emulated)
        torch.backends.mha.set_fastpath_enabled(False)

    def prepare(self, model: nn.Module, inputs: Tensors, batch_sizes: Collection[int]) -> None:
        """Plan for the FP32 `model` and carry it out: formats of weights, modules that run apart, converted layers.

        `inputs` (N, ...) are blank samples, `batch_sizes` those of training's micro-batches. Parameters stay the same
        objects under the same names. Raises ConfigError for overrides that cannot be and for batches that do not fit.
        """
        self.plan = make_plan(
            model,
            self.mode,
            self.config,
            emulated=self.emulated,
            why_not=self._why_not,
            called=self._called(model, inputs),
        )
        if self.plan.layers and not self.emulated:
            self._convert(model, inputs, batch_sizes)
        _store(model, self.plan)
        for planned in self.plan.modules:
            module = model.get_submodule(planned.name)
            if isinstance(module, nn.LSTM) and planned.computed == "fp16" and self.device.type == "cpu":
                run_lstm_in_fp16(module)
        for name, inside in self.plan.regions.items():
            run_in(model.get_submodule(name), inside, self.mode.computed)
        for name, low in self.plan.rounded.items():
            around = next((f for outer, f in self.plan.regions.items() if name.startswith(f"{outer}.")), None)
            round_around(model.get_submodule(name), low, around or self.mode.computed)
        if self.emulated:
            self._emulate(model)

    def _called(self, model: nn.Module, inputs: Tensors) -> list[str] | None:
        """Return the layers that a forward calls, in order, if single layers matter; None where it cannot be told."""
        if not (self.mode.gemm or self.config.overrides):
            return None
        blank = Batch(map_tensors(lambda t: t.float() if t.is_floating_point() else t, inputs), None)
        try:
            return [name for name, _ in calls(model, layers_with_products(model), blank.inputs, blank.size)]
        except NeedsValuesError:
            return None

    def _convert(self, model: nn.Module, inputs: Tensors, batch_sizes: Collection[int]) -> None:
        """Let torchao run the layers that the plan gives operand formats."""
        by_mode: dict[Mode, list[str]] = {}
        problems = []
        for planned in self.plan.modules:
            if planned.operand_mode:
                operands = with_formats(get_mode(planned.operand_mode), GemmFormatsConfig(), self.config.fp8.recipe)
                reason = float8.impossible(model.get_submodule(planned.name), operands)
                if reason:
                    problems.append(f"precision.overrides: {planned.reason}: {planned.name} cannot be: {reason}")
                by_mode.setdefault(operands, []).append(planned.name)
        if problems:
            raise ConfigError(problems)
        for operands, layers in by_mode.items():
            capability.require(operands.name, self.device)
            float8.check_rows(model, layers, operands, inputs, batch_sizes)
            self.batch_multiple = max(self.batch_multiple, float8.row_multiple(operands))
        for operands, layers in by_mode.items():
            if operands.name == "fp8":
                float8.convert(model, layers, self.config.fp8.recipe)
            else:
                block_scaled.convert_mx(model, layers, "mxfp8" if operands.name == "mxfp8" else "nvfp4")

    def _emulate(self, model: nn.Module) -> None:
        problems = [
            f"precision.overrides: {planned.reason}: {planned.name} cannot be: {reason}"
            for planned in self.plan.modules
            if planned.formats and (reason := coverable(model.get_submodule(planned.name)))
        ]
        if problems:
            raise ConfigError(problems)
        for name, formats in self.plan.layers.items():
            emulate_layer(model.get_submodule(name), formats)
        computed = self.plan.formats_in_use
        self._emulations = [Fp32Accumulation()] if computed & {"fp16", "bf16"} else []  # type: ignore[no-untyped-call]
        self._emulations += [Tf32Products()] if "tf32" in computed else []  # type: ignore[no-untyped-call]

    def convert_input(self, inputs: Tensors) -> Tensors:
        """Give floating-point inputs the format that the model's first layer expects."""
        if self.mode.stored != "fp64":
            return inputs
        return map_tensors(lambda t: t.double() if t.is_floating_point() else t, inputs)

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context for forward and loss, and nothing else.

        The weight cache is off: entered under `no_grad` it can hand out casts without gradients (pytorch #112583),
        and it only pays where a weight is used more than once in a forward.
        """
        if self._autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self._autocast_dtype, cache_enabled=False)

    def arithmetic(self) -> AbstractContextManager[object]:
        """Return the context for everything the emulated format computes: forward, loss and backward."""
        return self._emulating() if self._emulations else nullcontext()

    @contextmanager
    def _emulating(self) -> Iterator[None]:
        with ExitStack() as stack:
            for emulation in self._emulations:
                stack.enter_context(emulation)
            yield

    @property
    def accumulation(self) -> Fp32Accumulation | None:
        """The emulation of FP16 and BF16 products, which can count what underflows in them; None where native."""
        return next((e for e in self._emulations if isinstance(e, Fp32Accumulation)), None)

    @property
    def loss_scale_kind(self) -> str:
        """The kind of loss scaling; `auto` scales dynamically where anything computes in FP16."""
        if self.config.loss_scale.kind != "auto":
            return self.config.loss_scale.kind
        return "dynamic" if "fp16" in self.plan.formats_in_use else "none"

    @property
    def gradient_format(self) -> str:
        """The format in whose range gradients must lie: FP16 where anything computes in it, else the mode's own.

        Not that of FP8 operands, which have scales of their own.
        """
        return "fp16" if "fp16" in self.plan.formats_in_use else self.mode.computed

    def make_scaler(self, model: nn.Module) -> LossScaler:
        """Return the loss scaler over the trainable parameters of a prepared `model`, its state on the device."""
        return make_grouped_scaler(self.loss_scale_kind, self.config.loss_scale, model, self.device)

    def make_weight_store(self, model: nn.Module, *, accumulate: int, seed: int) -> WeightStore:
        """Return what stands between the weights of a prepared `model` and the optimizer."""
        low = {n: p for n, p in model.named_parameters() if p.requires_grad and p.dtype in FORMAT_OF}
        kind: StoreKind = "master" if self.mode.master else "pure" if self.mode.pure else "fp32"
        return make_weight_store(kind, self.config.rounding, low, accumulate=accumulate, seed=seed)

    def notices(self, model: nn.Module, optimizer_settings: Mapping[str, object], *, compiled: bool) -> list[str]:
        """Return what the user should know before the first step; settings are those of an optimizer's group."""
        found: list[str] = []
        support = capability.support(self.mode.name, self.device)
        if not self.emulated and self.mode.computed == "bf16" and support.level == "slow":
            found.append(f"{self.mode.name} is slow on this device: {support.reason}")
        found += self._fp16_notices(model)
        if self.mode.pure:
            found += pure_notices(self.mode.stored, self.config.rounding, optimizer_settings)
        if self.mode.gemm and not self.plan.layers:
            found.append(
                f"{self.mode.name} converts no layer of this model (see `mptrain plan`): it is {self.mode.computed}"
            )
        elif self.mode.gemm and not self.emulated:
            found += float8.payoff_notices(model, list(self.plan.layers), self.mode, compiled=compiled)
        return found

    def _fp16_notices(self, model: nn.Module) -> list[str]:
        found = []
        computes_fp16 = "fp16" in self.plan.formats_in_use
        convolutions = sum(isinstance(m, nn.modules.conv._ConvNd) for m in model.modules())
        if computes_fp16 and self.device.type == "cpu" and convolutions and not self.emulated:
            found.append(
                f"fp16 on a CPU: the backward of this model's {convolutions} convolutions is about 60 times "
                "slower than in FP32, a step may take minutes; use precision.backend=emulated (FP16's numerics at "
                "about FP32's speed), precision=bf16, or a GPU"
            )
        if computes_fp16 and self.loss_scale_kind == "none":
            found.append("fp16 without loss scaling: gradients below 6e-8 become zero; loss_scale=dynamic prevents it")
        return found

    def _why_not(self, layer: nn.Module, is_last: bool) -> str | None:
        if not self.emulated:
            return float8.why_not(layer, self.mode, is_last=is_last)
        return "last layer" if is_last else coverable(layer)

    def in_force(self, requested: str) -> InForce:
        """Describe what this policy really does."""
        mode, layers = self.mode, self.plan.layers
        formats: dict[str, object] | None = None
        if layers:
            first = next(iter(layers.values()))
            formats = {
                "layers": len(layers),
                "input": first.input,
                "weight": first.weight,
                "grad_output": first.grad_output_for_weight,
                "scaling": first.scaling,
            }
        optimizer = "fp32" if mode.stored in ("fp16", "bf16") and not mode.pure else mode.stored
        return InForce(
            requested=requested,
            mode=mode.name,
            reason=self.reason,
            backend="emulated" if self.emulated else "native",
            param_dtype=mode.stored,
            compute_dtype=mode.computed,
            grad_dtype=mode.stored,
            optimizer_dtype=optimizer,
            loss_dtype="fp64" if mode.stored == "fp64" else "fp32",
            reduce_dtype=mode.stored,
            autocast=mode.autocast,
            master_weights=mode.master,
            rounding=self.config.rounding if mode.pure else None,
            formats=formats,
            overrides=len(self.config.overrides),
            loss_scale=self.loss_scale_kind,
            tf32=tf32_state(),
            device=str(self.device),
        )


def _store(model: nn.Module, plan: Plan) -> None:
    """Give each module's parameters the format they are stored in; buffers go along into FP64, and stay out of it."""
    for planned in plan.modules:
        if planned.stored == "fp32":
            continue
        module, dtype = model.get_submodule(planned.name), DTYPES[planned.stored]
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.data.to(dtype)
    if plan.mode.stored == "fp64":
        model.double()
    for name, inside in {**plan.regions, **plan.rounded}.items():
        if inside == "fp64":
            model.get_submodule(name).double()
        elif plan.mode.stored == "fp64":
            model.get_submodule(name).float()


def resolve_policy(config: PrecisionConfig, device: torch.device) -> PrecisionPolicy:
    """Return the policy for `config` (one without phases) on `device`.

    Raises CapabilityError where the device cannot run the mode natively and emulation was not asked for.
    """
    if config.mode == "auto":
        name, reason = capability.resolve_auto(device)
    else:
        name, reason = config.mode, "asked for"
    if config.backend != "emulated":
        capability.require(name, device)
        if get_mode(name).gemm:
            float8.require_torchao(name)
    return PrecisionPolicy(with_formats(get_mode(name), config.formats, config.fp8.recipe), config, device, reason)
