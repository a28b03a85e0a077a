"""Which foreign exceptions are an ending that a user can act on, and which are a bug.

Owns: that mapping, for training and for every command that builds a model. Must not: catch what it does not know.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from mptrain.data.workers import loader_died
from mptrain.errors import (
    CapabilityError,
    ConfigError,
    Interrupted,
    MptrainError,
    OutOfMemoryError,
    first_line,
    one_line,
)
from mptrain.trainer.build import Run
from mptrain.trainer.micro_batch import norm_needs_more
from mptrain.trainer.out_of_memory import out_of_memory, ran_out_of_memory
from mptrain.trainer.signals import StoppedBySignal

_SMALLER_STEP = "set train.micro_batch=auto, lower data.batch_size, or use precision=bf16"
_SMALLER_RUN = "use a smaller model or dataset, or a smaller data.batch_size"

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_TORCH_CANNOT_WRITE = ("PytorchStreamWriter failed", "iostream error")


def ending_of(error: BaseException, *, training: bool, run: Run | None = None) -> MptrainError | None:
    """Return the error as an ending with an exit code, or None for a bug.

    `training`: everything had been built; `run`, where it is known, tells what was in use when memory ran out.
    """
    if isinstance(error, MptrainError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return Interrupted("interrupted")
    if isinstance(error, StoppedBySignal):
        return error.ending()
    text = str(error)
    if ran_out_of_memory(error):
        if run is not None:
            return out_of_memory(error, run)
        return OutOfMemoryError(f"out of memory ({first_line(error)}); {_SMALLER_STEP if training else _SMALLER_RUN}")
    if isinstance(error, RuntimeError) and "DataLoader worker" in text:
        return loader_died(error)
    no_space = isinstance(error, OSError) and error.errno in _NO_SPACE
    if no_space or (isinstance(error, RuntimeError) and any(words in text for words in _TORCH_CANNOT_WRITE)):
        return cannot_save(error)
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        reason = " ".join(text.partition("\n\n")[0].split())
        return CapabilityError(f"train.compile: torch.compile failed ({one_line(reason)}); set train.compile=false")
    if isinstance(error, RuntimeError) and "does not have a deterministic implementation" in text:
        return CapabilityError(
            f"train.deterministic: {text.partition(',')[0]} on this device; set train.deterministic=false, or use "
            "device=cpu or another model"
        )
    if isinstance(error, ValueError) and norm_needs_more(error):
        return ConfigError(
            "data.batch_size: the model normalises over the batch, and a micro-batch had one sample; raise "
            "data.batch_size (or train.micro_batch), or set data.drop_last=true if it was the last of an epoch"
        )
    return None


def cannot_save(error: BaseException) -> CapabilityError:
    """Return the ending of a run whose directory takes nothing."""
    return CapabilityError(
        f"cannot save ({first_line(error)}); free space for the run directory, or choose another --output-dir"
    )


@contextmanager
def known_endings() -> Iterator[None]:
    """Turn what the body raises into the MptrainError it means; a bug passes as it is."""
    try:
        yield
    except Exception as error:
        ending = ending_of(error, training=False)
        if ending is None or ending is error:
            raise
        raise ending from error
