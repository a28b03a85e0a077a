"""Why a precision is as fast as it is: sentences, each with the figure that it rests on.

Owns: the thresholds and the wording. Must not: measure, or import torch; every figure is handed in.

A reason is a fact about the device or a measurement, with a weight: about the share of the step that it explains. The
heaviest ones are told first, at most two for a mode; all are in the JSON.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from mptrain.telemetry.human import percent

_NO_GAIN = 1.2
"""A format whose products run at less than so many times FP32's rate has little to offer."""
_SMALL = 0.5
"""Below this share of the device's best rate, a product does not fill the device."""
_FULL = 0.95
_NOTABLE = 0.1
"""Shares of a step below this explain nothing."""
_OPTIMIZER_BOUND = 0.3
_IDLE = 0.3
_TOLD = 2


class Reason(NamedTuple):
    """One explanation."""

    kind: str
    weight: float
    text: str


@dataclass(frozen=True)
class Figures:
    """What is known of one mode, and of FP32 beside it; None where it was not measured."""

    mode: str
    computed: str | None
    """The one format that its products run in; None: several, or FP8 operands."""
    emulated: bool
    level: str
    level_reason: str | None
    """What the hardware lacks; None: nothing, or it is not known."""
    speed_up: dict[str, Any] | None
    shares: dict[str, float | None] | None
    rate: float | None
    """Operations a second of large products in its format."""
    rate_fp32: float | None
    achieved: float | None
    """Operations a second of all products of the step, while they run."""
    achieved_fp32: float | None
    own_rate: float | None
    """Operations a second of the model's heaviest product in its format."""
    own_rate_fp32: float | None
    product: str | None
    tf32_speed_up: float | None
    """What TF32 brought, where it was measured."""


def is_faster(speed_up: dict[str, Any] | None) -> bool:
    """Say whether a mode was faster than FP32 in every one of several rounds."""
    return speed_up is not None and len(speed_up["rounds"]) > 1 and bool(speed_up["min"] > 1)


def verdict(speed_up: dict[str, Any]) -> str:
    """Return in words how a mode compares with FP32; a difference is one that all rounds agree on."""
    rounds, ratio = len(speed_up["rounds"]), f"{speed_up['median']:.2f}"
    if rounds == 1:
        return f"{ratio} times FP32's speed in the one round there was: too few to tell"
    of_rounds = f"{speed_up['min']:.2f} to {speed_up['max']:.2f} in {rounds} rounds"
    if speed_up["min"] > 1:
        return f"{ratio} times as fast as FP32 ({of_rounds})"
    if speed_up["max"] < 1:
        return f"slower than FP32: {ratio} of its speed ({of_rounds})"
    return f"no faster than FP32 as far as this tells: {ratio} of its speed ({of_rounds})"


def reasons(figures: Figures) -> list[Reason]:
    """Return what explains a mode's speed, heaviest first; what was gained, if all of it came, needs none."""
    if figures.emulated:
        text = "emulated: shows what the precision does to training, never how fast it is"
        return [Reason("emulated", 1.0, text)]
    found = [*_of_the_device(figures), *_of_the_products(figures), *_of_the_shares(figures), *_of_tf32(figures)]
    return sorted(found, key=lambda reason: -reason.weight)


def explanation(figures: Figures) -> str:
    """Return the sentences that a person reads about one mode."""
    if figures.speed_up is None:
        return "; ".join(reason.text for reason in reasons(figures)[:1]) or "not compared"
    told = [reason.text for reason in reasons(figures)[:_TOLD]]
    said = verdict(figures.speed_up)
    if not told:
        is_slower = len(figures.speed_up["rounds"]) > 1 and figures.speed_up["max"] < 1
        return f"{said}; nothing that was measured explains it" if is_slower else said
    is_no_faster = len(figures.speed_up["rounds"]) > 1 and not is_faster(figures.speed_up)
    return f"{said}; {'why' if is_no_faster else 'what holds it back'}: {'; '.join(told)}"


def _of_the_device(f: Figures) -> list[Reason]:
    """Yield what the device is no good at: its measured rate, with the rule of its hardware."""
    found = []
    fmt = (f.computed or f.mode).upper()
    products = (f.shares or {}).get("products")
    if f.rate and f.rate_fp32 and f.computed not in (None, "fp32") and f.rate / f.rate_fp32 < _NO_GAIN:
        why = f" ({f.level_reason})" if f.level_reason else ""
        text = f"this device computes large products in {fmt} at {f.rate / f.rate_fp32:.2f} times its FP32 rate{why}"
        found.append(Reason("no_faster_arithmetic", products if products is not None else 0.9, text))
    elif f.level == "slow" and f.level_reason:
        found.append(Reason("no_native_arithmetic", 0.5, f.level_reason))
    return found


def _of_the_products(f: Figures) -> list[Reason]:
    """Yield what the shapes cost: how fast the step's products run, beside large products in the same format."""
    products = (f.shares or {}).get("products")
    got, got_fp32 = (f.achieved, f.achieved_fp32) if f.achieved and f.achieved_fp32 else (f.own_rate, f.own_rate_fp32)
    if not (f.rate and f.rate_fp32 and got and got_fp32) or f.computed in (None, "fp32"):
        return []
    offered, gain, filled = f.rate / f.rate_fp32, got / got_fp32, got / f.rate
    if offered < _NO_GAIN or gain > (1 + offered) / 2 or filled > _SMALL:
        return []
    fmt = (f.computed or "").upper()
    text = (
        f"its products run {gain:.2f} times as fast in {fmt} as in FP32, at {percent(filled)} of the rate of large "
        f"products, which is {offered:.2f} times FP32's"
    )
    own_filled = f.own_rate / f.rate if f.own_rate else 0.0
    reached = "that rate" if own_filled > _FULL else f"{percent(own_filled)} of it"
    alone = f"the heaviest, {f.product}, alone reaches {reached}" if f.own_rate else ""
    if own_filled < _SMALL:
        text += ": they are too small to fill this device" + (f" ({alone})" if alone else "")
        return [Reason("small_shapes", 1.0 if products is None else products, text)]
    text += f"; {alone}, the others are smaller or run in slower kernels"
    return [Reason("slow_products", 1.0 if products is None else products, text)]


def _of_the_shares(f: Figures) -> list[Reason]:
    """Yield what of the step is no product, and so gains nothing from a faster one."""
    shares = f.shares or {}
    casts, optimizer, products, busy = (shares.get(k) for k in ("casts", "optimizer", "products", "device_busy"))
    found = []
    if casts is not None and casts >= _NOTABLE:
        found.append(Reason("casts", casts, f"conversions between formats take {percent(casts)} of its step"))
    if optimizer is not None and optimizer >= _OPTIMIZER_BOUND:
        text = f"{percent(optimizer)} of its step is the optimizer's, which no faster product shortens"
        found.append(Reason("optimizer_bound", optimizer, text))
    if busy is not None and 1 - busy >= _IDLE:
        text = (
            f"the GPU works in only {percent(busy)} of its step and else waits for the host: larger batches or "
            "train.compile help, a precision does not"
        )
        found.append(Reason("host_bound", 1 - busy, text))
    rest = None if products is None else 1 - products - (casts or 0.0)
    if rest is not None and rest >= 0.5:
        text = f"only {percent(products)} of its step are products; the rest gains little from a lower precision"
        found.append(Reason("few_products", rest - (optimizer or 0.0), text))
    return found


def _of_tf32(f: Figures) -> list[Reason]:
    if f.tf32_speed_up is None or f.speed_up is None or f.mode in ("tf32", "fp64"):
        return []
    if f.tf32_speed_up < _NO_GAIN or f.speed_up["median"] > 1.1 * f.tf32_speed_up:
        return []
    text = f"TF32 alone is {f.tf32_speed_up:.2f} times as fast as FP32: tensor cores without changing what is stored"
    return [Reason("tf32_has_it", 0.3, text)]
