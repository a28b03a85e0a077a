"""Which optimizers and schedules exist, with their Configs. Torch is imported only when one is built."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, Strict, field_validator

from mptrain.config.schema import OptimizerConfig, ScheduleConfig
from mptrain.config.section import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from mptrain.optim import schedules
from mptrain.registry import OPTIMIZERS, SCHEDULES

if TYPE_CHECKING:
    from torch import Tensor

    from mptrain.interfaces import Schedule, SkippingOptimizer


class SgdConfig(OptimizerConfig):
    """Stochastic gradient descent."""

    momentum: Fraction = 0.9
    """Momentum factor."""
    nesterov: bool = False
    """Nesterov momentum."""


class AdamConfig(OptimizerConfig):
    """Adam and its relatives."""

    beta1: Fraction = 0.9
    """Decay of the first moment."""
    beta2: Fraction = 0.999
    """Decay of the second moment."""
    eps: PositiveFloat = 1e-8
    """Added to the denominator."""


class AdagradConfig(OptimizerConfig):
    """Adagrad."""

    lr_decay: NonNegativeFloat = 0.0
    """Learning-rate decay of the optimizer itself."""
    eps: PositiveFloat = 1e-10
    """Added to the denominator."""


class RmspropConfig(OptimizerConfig):
    """RMSprop."""

    alpha: Fraction = 0.99
    """Decay of the squared gradient's average."""
    momentum: Fraction = 0.0
    """Momentum factor."""
    eps: PositiveFloat = 1e-8
    """Added to the denominator."""


def _adam_arguments(config: AdamConfig) -> dict[str, Any]:
    return {"betas": (config.beta1, config.beta2), "eps": config.eps}


@OPTIMIZERS.register("sgd", config=SgdConfig, description="SGD with momentum", flags=("fused",))
def _sgd(config: SgdConfig, groups: list[dict[str, Any]], lr: Tensor) -> SkippingOptimizer:
    from mptrain.optim.build import build_optimizer

    return build_optimizer("SGD", groups, lr, {"momentum": config.momentum, "nesterov": config.nesterov})


@OPTIMIZERS.register("adam", config=AdamConfig, description="Adam; weight decay as an L2 penalty", flags=("fused",))
def _adam(config: AdamConfig, groups: list[dict[str, Any]], lr: Tensor) -> SkippingOptimizer:
    from mptrain.optim.build import build_optimizer

    return build_optimizer("Adam", groups, lr, _adam_arguments(config))


@OPTIMIZERS.register("adamw", config=AdamConfig, description="Adam with decoupled weight decay", flags=("fused",))
def _adamw(config: AdamConfig, groups: list[dict[str, Any]], lr: Tensor) -> SkippingOptimizer:
    from mptrain.optim.build import build_optimizer

    return build_optimizer("AdamW", groups, lr, _adam_arguments(config))


@OPTIMIZERS.register(
    "adagrad", config=AdagradConfig, description="Adagrad (fused on the CPU; one host read a step on a GPU)"
)
def _adagrad(config: AdagradConfig, groups: list[dict[str, Any]], lr: Tensor) -> SkippingOptimizer:
    from mptrain.optim.build import build_optimizer

    return build_optimizer("Adagrad", groups, lr, {"lr_decay": config.lr_decay, "eps": config.eps})


@OPTIMIZERS.register("nadam", config=AdamConfig, description="Adam with Nesterov momentum; one host read a step")
def _nadam(config: AdamConfig, groups: list[dict[str, Any]], lr: Tensor) -> SkippingOptimizer:
    from mptrain.optim.build import build_optimizer

    return build_optimizer("NAdam", groups, lr, _adam_arguments(config))


@OPTIMIZERS.register("radam", config=AdamConfig, description="rectified Adam; one host read a step")
def _radam(config: AdamConfig, groups: list[dict[str, Any]], lr: Tensor) -> SkippingOptimizer:
    from mptrain.optim.build import build_optimizer

    return build_optimizer("RAdam", groups, lr, _adam_arguments(config))


@OPTIMIZERS.register("rmsprop", config=RmspropConfig, description="RMSprop; one host read a step")
def _rmsprop(config: RmspropConfig, groups: list[dict[str, Any]], lr: Tensor) -> SkippingOptimizer:
    from mptrain.optim.build import build_optimizer

    arguments = {"alpha": config.alpha, "momentum": config.momentum, "eps": config.eps}
    return build_optimizer("RMSprop", groups, lr, arguments)


class WarmupConfig(ScheduleConfig):
    """A schedule that can begin with a linear warm-up."""

    warmup_steps: NonNegativeInt = 0
    """Applied steps of linear warm-up before the schedule begins."""


class LinearConfig(WarmupConfig):
    """Linear decay."""

    end_factor: NonNegativeFloat = 0.0
    """Factor of the peak rate at the last step."""


class CosineConfig(WarmupConfig):
    """Half a cosine."""

    end_factor: NonNegativeFloat = 0.0
    """Factor of the peak rate at the last step."""


class PolynomialConfig(WarmupConfig):
    """Polynomial decay to zero."""

    power: PositiveFloat = 0.9
    """Exponent of the share of steps left."""


class StepConfig(WarmupConfig):
    """Piecewise constant."""

    step_size: PositiveInt
    """Applied steps between two decays."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Factor at each decay."""


class MultiStepConfig(WarmupConfig):
    """Piecewise constant, with decays at chosen steps."""

    milestones: Annotated[tuple[PositiveInt, ...], Strict(False), Field(min_length=1)]
    """Applied steps of the run at which the rate decays, rising; the warm-up counts among them."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Factor at each decay."""

    @field_validator("milestones")
    @classmethod
    def _rising(cls, milestones: tuple[int, ...]) -> tuple[int, ...]:
        if list(milestones) != sorted(set(milestones)):
            raise ValueError(f"milestones {list(milestones)} must rise; sort them")
        return milestones


class OneCycleConfig(ScheduleConfig):
    """One cosine up, one cosine down."""

    warmup_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share of the run spent rising."""
    start_divisor: Annotated[float, Field(ge=1)] = 25.0
    """The first rate is the peak divided by this."""
    end_divisor: Annotated[float, Field(ge=1)] = 1e4
    """The last rate is the first divided by this."""


@SCHEDULES.register("constant", config=WarmupConfig, description="the peak rate throughout")
def _constant(config: WarmupConfig, total_steps: int) -> Schedule:
    return schedules.with_warmup(config.warmup_steps, schedules.constant(), total_steps)


@SCHEDULES.register("linear", config=LinearConfig, description="straight line from the peak to end_factor")
def _linear(config: LinearConfig, total_steps: int) -> Schedule:
    decay = schedules.linear(total_steps - config.warmup_steps, config.end_factor)
    return schedules.with_warmup(config.warmup_steps, decay, total_steps)


@SCHEDULES.register("cosine", config=CosineConfig, description="half a cosine from the peak to end_factor")
def _cosine(config: CosineConfig, total_steps: int) -> Schedule:
    decay = schedules.cosine(total_steps - config.warmup_steps, config.end_factor)
    return schedules.with_warmup(config.warmup_steps, decay, total_steps)


@SCHEDULES.register("polynomial", config=PolynomialConfig, description="the share of steps left, to a power")
def _polynomial(config: PolynomialConfig, total_steps: int) -> Schedule:
    decay = schedules.polynomial(total_steps - config.warmup_steps, config.power)
    return schedules.with_warmup(config.warmup_steps, decay, total_steps)


@SCHEDULES.register("inverse_sqrt", config=WarmupConfig, description="warm-up, then 1 / sqrt of the step")
def _inverse_sqrt(config: WarmupConfig, total_steps: int) -> Schedule:
    return schedules.with_warmup(config.warmup_steps, schedules.inverse_sqrt(config.warmup_steps), total_steps)


@SCHEDULES.register("step", config=StepConfig, description="the peak times gamma every step_size steps")
def _step(config: StepConfig, total_steps: int) -> Schedule:
    decay = schedules.step(config.step_size, config.gamma)
    return schedules.with_warmup(config.warmup_steps, decay, total_steps)


@SCHEDULES.register("multi_step", config=MultiStepConfig, description="the peak times gamma at each milestone")
def _multi_step(config: MultiStepConfig, total_steps: int) -> Schedule:
    decay = schedules.multi_step([step - config.warmup_steps for step in config.milestones], config.gamma)
    return schedules.with_warmup(config.warmup_steps, decay, total_steps)


@SCHEDULES.register(
    "one_cycle", config=OneCycleConfig, description="cosine up to the peak, then cosine down to almost zero"
)
def _one_cycle(config: OneCycleConfig, total_steps: int) -> Schedule:
    return schedules.one_cycle(total_steps, config.warmup_fraction, config.start_divisor, config.end_divisor)
