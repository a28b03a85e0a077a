"""What the ledger cannot see of a hopeless run: whether weights are finite and gradients 0, groups' scales, the data.

Owns: these, worded for the error that ends the run. All wait for the device: not for the step. Must not: decide when to
give up over skips, or when to look (`ledger.py`).
"""

from __future__ import annotations

from itertools import islice

import torch

from mptrain.data.cached import tensor_list
from mptrain.errors import DivergedError, MptrainError, first_line
from mptrain.interfaces import Tensors
from mptrain.trainer.build import Run
from mptrain.trainer.ledger import Ledger
from mptrain.trainer.position import WindowPlace

_NAMED = 8
"""Samples that an error names."""


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


def require_gradients(run: Run, ledger: Ledger) -> None:
    """Raise DivergedError where all gradients of the last step are exactly 0, as many looks in a row suggest."""
    parts = run.parts
    gradients = [parts.weights.gradient(p) for p in parts.model.parameters() if p.requires_grad]
    if any(gradient.any() for gradient in gradients if gradient is not None):
        ledger.counts.consecutive_zero_gradients = 0  # only those looked at were 0
        return
    count, low = ledger.counts.consecutive_zero_gradients, _underflowing_format(run)
    cause = "the loss does not depend on the weights (a dead ReLU, a constant loss, no target that counts)"
    remedy = "look at the model and the task, or lower optimizer.lr"
    if low is not None:
        raised = "raise precision.loss_scale.init_scale"
        if parts.policy.loss_scale_kind == "none":
            raised = "set precision.loss_scale=dynamic"
        cause = f"underflow: they are too small for {low}, or {cause}"
        remedy = f"{raised}, or try precision=bf16; where they are 0 in fp32 too, {remedy}"
    raise DivergedError(
        f"all gradients were exactly 0 in {count} steps in a row, up to {ledger.at_in_words()} with loss "
        f"{ledger.last.loss:.6g}, so nothing is learned; {cause}; {remedy}; train.max_zero_gradients=null goes on"
    )


def _underflowing_format(run: Run) -> str | None:
    """Return the narrow format in which gradients may have become 0; None where the range is FP32's."""
    policy = run.parts.policy
    if "fp16" in policy.plan.formats_in_use:
        return "fp16"
    return policy.mode.name if policy.plan.layers else None


def with_inputs(error: DivergedError, run: Run, place: WindowPlace) -> DivergedError:
    """Return `error`, which a loss ended that is not finite, with what the data of its step hold: they are read again.

    Data are a function of seed, epoch and position, so these are the very samples.
    """
    found: dict[str, list[int]] = {}
    ids = run.train_loader.order(place.epoch).split(run.config.data.batch_size)[place.micro_batch :]
    try:
        batches = run.train_loader.epoch(place.epoch, place.micro_batch)
        for batch, own in zip(islice(batches, place.length), ids, strict=False):
            for what, tensors in (("inputs", batch.inputs), ("targets", batch.targets)):
                for row in _rows_not_finite(tensors):
                    # Where files were left out (data.on_error=skip), which sample a row is cannot be told.
                    found.setdefault(what, []).append(int(own[row]) if batch.size == len(own) else -1)
    except (MptrainError, RuntimeError, OSError) as problem:
        return DivergedError(f"{error}. Its data could not be read again ({first_line(problem)})")
    if not found:
        return DivergedError(f"{error}. The inputs and targets of that step are finite")
    said = ", ".join(f"its {what} hold NaN or infinity in {_samples(rows)}" for what, rows in found.items())
    return DivergedError(f"{error}. The data are the cause: {said} (epoch {place.epoch + 1}); repair or remove them")


def _rows_not_finite(tensors: Tensors) -> list[int]:
    """Return the samples in which a tensor of floating-point numbers is not finite."""
    rows: set[int] = set()
    for tensor in tensor_list(tensors):
        if tensor.is_floating_point():
            rows |= set((~tensor.isfinite().flatten(1).all(1)).nonzero().flatten().tolist())
    return sorted(rows)


def _samples(ids: list[int]) -> str:
    known = [str(index) for index in ids if index >= 0]
    if not known:
        return f"{len(ids)} samples"
    more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    return f"training sample{'s' * (len(ids) > 1)} {', '.join(known[:_NAMED])}{more}"


def explained(error: DivergedError, run: Run, applied_steps: int) -> DivergedError:
    """Return `error` with what the device knows beside; raise another where the weights are what is not finite."""
    require_finite_weights(run, applied_steps)
    scales = [f"{match!r} {scale:g}" for match, scale in run.parts.scaler.current_group_scales().items()]
    return DivergedError(f"{error}; scales of precision.loss_scale.groups: {', '.join(scales)}") if scales else error
