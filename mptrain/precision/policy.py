"""What the user asks for, as an object the trainer calls: the base class is FP32 and all no-ops.

Owns: PrecisionConfig -> policy, autocast, and the record of what is in force. Must not: choose a mode quietly; what a
device cannot run natively is an error (`mptrain.precision.capability`).
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass

import torch
from torch import nn

from mptrain.config.precision import LossScaleConfig, PrecisionConfig
from mptrain.precision import capability
from mptrain.precision.loss_scaler import LossScaler, make_scaler
from mptrain.precision.tf32 import set_tf32, tf32_state


@dataclass(frozen=True)
class InForce:
    """What precision is really in force; printed before the run and recorded in plan.json and result.json."""

    requested: str
    mode: str
    reason: str
    param_dtype: str
    compute_dtype: str
    grad_dtype: str
    optimizer_dtype: str
    loss_dtype: str
    reduce_dtype: str
    autocast: bool
    loss_scale: str
    tf32: dict[str, str]
    device: str

    def line(self) -> str:
        """Return it as one line for a person."""
        asked = f" (auto: {self.reason})" if self.requested == "auto" else ""
        scaling = "no loss scaling" if self.loss_scale == "none" else f"{self.loss_scale} loss scaling"
        return f"{self.mode}{asked}: weights {self.param_dtype}, compute {self.compute_dtype}, {scaling}"

    def as_dict(self) -> dict[str, object]:
        """Return it as JSON-able data."""
        return asdict(self)


class PrecisionPolicy:
    """FP32: weights, arithmetic, gradients and loss in FP32, TF32 off."""

    mode = "fp32"
    param_dtype = torch.float32
    compute_name = "fp32"
    tf32 = False
    default_loss_scale = "none"

    def __init__(self, device: torch.device, loss_scale: LossScaleConfig) -> None:
        self.device = device
        self.loss_scale = loss_scale
        self.loss_scale_kind = self.default_loss_scale if loss_scale.kind == "auto" else loss_scale.kind

    def apply_global_settings(self) -> None:
        """Set what torch keeps per process: TF32."""
        set_tf32(self.tf32)

    def convert_model(self, model: nn.Module) -> nn.Module:
        """Give the model its parameter dtype; FP32 models stay as they are."""
        return model

    def convert_input(self, inputs: torch.Tensor) -> torch.Tensor:
        """Give floating-point inputs and targets the dtype that the model's first layer expects."""
        return inputs

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context for forward and loss, and nothing else."""
        return nullcontext()

    def make_scaler(self, params: Iterable[nn.Parameter]) -> LossScaler:
        """Return the loss scaler over `params`, its state on the device."""
        return make_scaler(self.loss_scale_kind, self.loss_scale, params, self.device)

    def notices(self, model: nn.Module) -> list[str]:
        """Return what the user should know before the first step."""
        return []

    def in_force(self, requested: str, reason: str) -> InForce:
        """Describe what this policy really does."""
        param = {torch.float32: "fp32", torch.float64: "fp64"}[self.param_dtype]
        return InForce(
            requested=requested,
            mode=self.mode,
            reason=reason,
            param_dtype=param,
            compute_dtype=self.compute_name,
            grad_dtype=param,
            optimizer_dtype=param,
            loss_dtype=param,
            reduce_dtype=param,
            autocast=isinstance(self, AutocastPolicy),
            loss_scale=self.loss_scale_kind,
            tf32=tf32_state(),
            device=str(self.device),
        )


class Tf32Policy(PrecisionPolicy):
    """FP32 storage, matrix products and convolutions in TF32."""

    mode = "tf32"
    compute_name = "tf32"
    tf32 = True


class Fp64Policy(PrecisionPolicy):
    """Everything in FP64."""

    mode = "fp64"
    param_dtype = torch.float64
    compute_name = "fp64"

    def convert_model(self, model: nn.Module) -> nn.Module:
        """Convert weights and buffers to FP64."""
        return model.double()

    def convert_input(self, inputs: torch.Tensor) -> torch.Tensor:
        """Convert floating-point data to FP64."""
        return inputs.double() if inputs.is_floating_point() else inputs


class AutocastPolicy(PrecisionPolicy):
    """Autocast over FP32 weights."""

    compute_dtype: torch.dtype

    def autocast(self) -> AbstractContextManager[object]:
        """Return autocast for forward and loss.

        The weight cache is off: entered under `no_grad` it can hand out casts without gradients (pytorch #112583),
        and it only pays where a weight is used more than once in a forward.
        """
        return torch.autocast(self.device.type, dtype=self.compute_dtype, cache_enabled=False)


class Bf16Policy(AutocastPolicy):
    """Autocast to BF16, which has FP32's range: no loss scaling."""

    mode = "bf16"
    compute_name = "bf16"
    compute_dtype = torch.bfloat16

    def notices(self, model: nn.Module) -> list[str]:
        """Say when this device only imitates BF16."""
        found = capability.support("bf16", self.device)
        return [f"bf16 is slow on this device: {found.reason}"] if found.level == "slow" else []


class Fp16Policy(AutocastPolicy):
    """Autocast to FP16, with dynamic loss scaling by default."""

    mode = "fp16"
    compute_name = "fp16"
    compute_dtype = torch.float16
    default_loss_scale = "dynamic"

    def notices(self, model: nn.Module) -> list[str]:
        """Warn of FP16 convolutions on a CPU and of FP16 without scaling."""
        found: list[str] = []
        convolutions = sum(isinstance(m, nn.modules.conv._ConvNd) for m in model.modules())
        if self.device.type == "cpu" and convolutions:
            found.append(
                f"fp16 on a CPU: the backward of this model's {convolutions} convolutions is about 60 times "
                "slower than in FP32, a step may take minutes; use precision=bf16 or precision=fp32 "
                "here, or a GPU for fp16"
            )
        if self.loss_scale_kind == "none":
            found.append("fp16 without loss scaling: gradients below 6e-8 become zero; loss_scale=dynamic prevents it")
        return found


_POLICIES: dict[str, type[PrecisionPolicy]] = {
    policy.mode: policy for policy in (Fp64Policy, PrecisionPolicy, Tf32Policy, Fp16Policy, Bf16Policy)
}


def resolve_policy(config: PrecisionConfig, device: torch.device) -> tuple[PrecisionPolicy, str]:
    """Return the policy for `config` on `device` and the reason for its mode.

    Raises CapabilityError where the device cannot run the mode natively.
    """
    if config.mode == "auto":
        mode, reason = capability.resolve_auto(device)
    else:
        mode, reason = config.mode, "asked for"
    capability.require(mode, device)
    return _POLICIES[mode](device, config.loss_scale), reason
