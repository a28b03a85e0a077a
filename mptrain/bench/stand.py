"""The stand on which each precision is built and runs the trainer's own step on one batch that stays on the device.

Owns: building, freeing, and what an error of one mode means. Must not: time anything.

The learning rate is next to nothing (1e-12) instead of the config's, so that every step of every mode computes on the
initial weights, whatever came before: the cost of a step does not depend on its rate. The batch is the first one of the
training data. Samples of the numerics, logging, evaluation and saving are no part of a step.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mptrain.bench.modes import BASELINE, Contestant
from mptrain.config.precision import PrecisionConfig
from mptrain.config.schema import DebugConfig, RunConfig
from mptrain.errors import CapabilityError, MptrainError
from mptrain.interfaces import Batch, map_tensors
from mptrain.trainer.build import Run, build_run, enter_phase
from mptrain.trainer.endings import ending_of
from mptrain.trainer.micro_batch import MicroBatch, make_micro_batch
from mptrain.trainer.step import MicroLoss, TrainStep

MOST_STEPS = 20_000
"""Steps that one built mode can take: as many as it has learning rates."""
_RATE = 1e-12


@dataclass
class Built:
    """One mode, ready to step."""

    run: Run
    step: TrainStep
    window: list[Batch]
    micro_batch: MicroBatch

    def __call__(self) -> None:
        """Attempt one step."""
        self.step(self.window)

    def skipped(self) -> int:
        """Return how many steps so far changed nothing; waits for the device."""
        return self.step.attempts - int(self.run.parts.applied.count)


class Stand:
    """Data, one real batch, and the means to build any mode on them."""

    def __init__(self, config: RunConfig) -> None:
        """Build data and model once, in FP32; raises what `build_run` does."""
        plain = {"precision": PrecisionConfig(mode=BASELINE), "debug": DebugConfig(), "ema": None}
        run = build_run(config.model_copy(update=plain))
        self.config, self.device = config, run.device
        self.run = replace(run, rates=[_RATE] * (MOST_STEPS + 1))
        batches = run.train_loader.epoch(0, 0)
        self.batch = Batch(*(map_tensors(Tensor.clone, part) for part in next(batches)))
        del batches
        run.parts.model.cpu()  # what stands here to be copied must not take a mode's memory

    @property
    def samples_per_step(self) -> int:
        """Return the samples of one optimizer step."""
        return self.batch.size * self.config.train.accumulate

    @property
    def tokens_per_sample(self) -> int | None:
        """Return the tokens of a sample where every position is one; None where there may be padding."""
        return self.run.spec.input_shape[0] if self.run.spec.kind == "language_modelling" else None

    @contextmanager
    def built(
        self,
        contestant: Contestant,
        *,
        wrap_loss: Callable[[MicroLoss], MicroLoss] = lambda loss: loss,
        around_gradients: Callable[[Callable[[], None]], None] = lambda compute: compute(),
        compiled: bool | None = None,
        batch: Batch | None = None,
    ) -> Iterator[Built]:
        """Build a mode in its initial state, and free it afterwards; `compiled` None does as the config says."""
        config = contestant.config
        if contestant.emulated and config.train.compile:
            raise CapabilityError("train.compile cannot compile emulated arithmetic: set train.compile=false")
        run = enter_phase(replace(self.run, config=config), 0)
        run.parts.model.train()
        compiles = config.train.compile if compiled is None else compiled
        micro_batch = make_micro_batch(config, self.device, lambda size, smaller: None)
        micro_batch.multiple = run.parts.policy.batch_multiple
        step = TrainStep(
            run.parts,
            lambda loss: wrap_loss(torch.compile(loss) if compiles else loss),
            AroundGradients(micro_batch, around_gradients),
        )
        batch = self.batch if batch is None else batch
        made = Built(run, step, [batch] * config.train.accumulate, micro_batch)
        try:
            yield made
        finally:
            made.run = made.step = made.window = None  # type: ignore[assignment]  # the caller's name keeps `made` alive
            del run, step, made, micro_batch
            if compiles:
                torch._dynamo.reset()  # each built mode is another program: beyond 8 it would run without compiling
            self.tidy_up()

    def tidy_up(self) -> None:
        """Give memory back that nothing uses."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def attempt(self, measure: Callable[[], None]) -> MptrainError | None:
        """Call `measure`; return what kept this one mode from it. A bug is raised as it is."""
        try:
            measure()
        except Exception as error:
            problem = ending_of(error, training=True)
            if problem is None:
                raise
        else:
            return None
        # Out of the handler: an exception holds the frames it passed, and they the tensors that filled the memory.
        problem = problem.with_traceback(None)
        problem.__cause__ = problem.__context__ = None
        self.tidy_up()
        return problem


class AroundGradients(MicroBatch):
    """Hands the computation of gradients, forward and backward of a window, to `around`; else as `inner` does."""

    def __init__(self, inner: MicroBatch, around: Callable[[Callable[[], None]], None]) -> None:
        super().__init__(inner.size)
        self._inner, self._around = inner, around

    def pieces(self, batch: Batch) -> Sequence[Batch]:
        """See MicroBatch."""
        return self._inner.pieces(batch)

    def within_memory(self, window: Sequence[Batch], compute: Callable[[], None], forget: Callable[[], None]) -> None:
        """See MicroBatch."""
        self._around(lambda: self._inner.within_memory(window, compute, forget))


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
