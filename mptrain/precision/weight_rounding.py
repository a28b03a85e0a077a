"""Rounds FP32 results into low-precision storage: to nearest, stochastically, or to nearest with Kahan's compensation.

An update below half the spacing of a weight's format is lost when rounded to nearest. Stochastic rounding keeps it in
the mean (Gupta et al. 2015, arXiv 1502.02551); Kahan summation keeps what was lost in a second low-precision number
(Zamirai et al. 2020, arXiv 2010.06192, algorithm 1):

    y = update + e        w' = round(w + y)        e' = round(y - (w' - w))

Owns: these, and the count of updates that left no trace. Must not: know optimizers or where the numbers are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mptrain.precision.formats import get_format, round_stochastic

FORMAT_OF = {torch.float16: get_format("fp16"), torch.bfloat16: get_format("bf16")}
"""The formats that weights are stored in below FP32."""


def round_low(x: Tensor, dtype: torch.dtype, generator: torch.Generator | None) -> Tensor:
    """Return FP32 `x` in FP16 or BF16: to nearest even, or stochastically where there is a generator."""
    return x.to(dtype) if generator is None else round_stochastic(x, FORMAT_OF[dtype], generator).to(dtype)


def round_compensated(
    old: Tensor, new: Tensor, carried: Tensor, skipped: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return weights and compensation in `dtype` after the FP32 weights `old` were to become `new`.

    `carried` is the compensation so far, in FP32. Where `skipped` (0-d) is not 0 both are returned as they were: the
    compensation alone can move a weight that lies half-way, and a skipped step changes nothing.
    """
    applied = skipped == 0
    owed = (new - old).add_(carried)
    rounded = torch.where(applied, old + owed, old).to(dtype)
    left = owed.sub_(rounded.float().sub_(old))
    return rounded, torch.where(applied, left, carried).to(dtype)


class LostUpdates:
    """Counts, for one step at a time, the elements with an update and those that it left exactly as they were."""

    def __init__(self, device: torch.device) -> None:
        self.lost = torch.zeros((), dtype=torch.int64, device=device)
        self.updated = torch.zeros((), dtype=torch.int64, device=device)
        self.wanted = False

    def begin(self) -> None:
        """Start the count of a step that is measured."""
        self.lost.zero_()
        self.updated.zero_()

    def count(self, old: Tensor, new: Tensor, kept: Tensor) -> None:
        """Add elements whose FP32 value went from `old` to `new`; `kept` (bool) says which are stored unchanged."""
        updated = new != old
        self.updated.add_(updated.count_nonzero())
        self.lost.add_(updated.logical_and_(kept).count_nonzero())


def pure_notices(low: str, rounding: str, settings: Mapping[str, Any]) -> list[str]:
    """Return what Adam's or RMSprop's moments lose in the format `low` (fp16 or bf16) of `-pure` weights.

    `settings` are those of an optimizer's parameter group. A second moment v decays by v * (1 - beta2) a step, which
    rounding to nearest undoes where it is under half the spacing: at the lower end of a power of two that is
    epsilon / 2 * v.
    """
    name, decay = ("beta2", settings["betas"][1]) if "betas" in settings else ("alpha", settings.get("alpha"))
    if decay is None:
        return []
    found = []
    fmt = get_format(low)
    limit = 1 - fmt.epsilon / 2
    if rounding != "stochastic" and decay > limit:
        found.append(
            f"{low}-pure: with {name} {decay:g} the second moments cannot decay, a change of {1 - decay:.2g} is under "
            f"half of {low}'s spacing ({fmt.epsilon / 2:.2g}); use {name} {limit:.4g} or less, or rounding=stochastic"
        )
    if low == "fp16":
        found.append(
            f"fp16-pure: second moments below {fmt.smallest_subnormal:.0e} (gradients below "
            f"{(fmt.smallest_subnormal / (1 - decay)) ** 0.5:.0e}) become zero and the steps too large; use bf16-pure, "
            "fp16-master, or an optimizer without second moments"
        )
    return found
