"""What the ledger cannot see of a hopeless run: whether the weights themselves are finite, and the groups' scales.

Owns: these two, worded for the error that ends the run. Both wait for the device: not for the step. Must not: decide
when to give up over skips (`ledger.py`).
"""

from __future__ import annotations

import torch

from mptrain.errors import DivergedError
from mptrain.trainer.build import Run


def require_finite_weights(run: Run, applied_steps: int) -> None:
    """Raise DivergedError where a weight is not finite as it is stored: such a model is neither evaluated nor saved."""
    if torch.stack([p.detach().isfinite().all() for p in run.parts.model.parameters()]).all():
        return
    fp16 = run.in_force.param_dtype == "fp16"
    wider = ", or use a BF16 mode: FP16 holds nothing beyond 65504" if fp16 else ""
    raise DivergedError(
        f"weights are not finite after {applied_steps} applied steps: the gradients were, the update overflowed; lower "
        f"optimizer.lr{wider}. The last checkpoint stands"
    )


def explained(error: DivergedError, run: Run, applied_steps: int) -> DivergedError:
    """Return `error` with what the device knows beside; raise another where the weights are what is not finite."""
    require_finite_weights(run, applied_steps)
    scales = [f"{match!r} {scale:g}" for match, scale in run.parts.scaler.current_group_scales().items()]
    return DivergedError(f"{error}; scales of precision.loss_scale.groups: {', '.join(scales)}") if scales else error
