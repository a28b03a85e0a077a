"""Lightning's Trainer, with everything off and with its defaults.

Owns: the Lightning contestants. Must not: do more than its quick start does.
"""

from __future__ import annotations

from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.contestants.lightning_fabric import PRECISIONS
from benchmarks.problem import Problem


class _Module(lightning.LightningModule):
    """The problem as a LightningModule."""

    def __init__(self, problem: Problem, log_loss: bool) -> None:
        super().__init__()
        self.net, self.problem, self.log_loss = problem.model(), problem, log_loss

    def training_step(self, batch: list[Tensor], batch_index: int) -> Tensor:
        """Return the mean loss over the batch."""
        inputs, labels = batch
        loss = cross_entropy(self.net(inputs), labels)
        if self.log_loss:
            self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the fused optimizer."""
        return self.problem.optimizer(self.net)


def _fit(problem: Problem, log_loss: bool, **options: Any) -> nn.Module:
    module = _Module(problem, log_loss)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        precision=PRECISIONS[problem.precision],
        max_steps=problem.num_steps,
        default_root_dir=problem.folder,
        **options,
    )
    trainer.fit(module, problem.loader())
    return module.net


def train_bare(problem: Problem) -> nn.Module:
    """Train with logger, checkpoints, progress bar and summary off."""
    return _fit(
        problem, False, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False
    )


def train(problem: Problem) -> nn.Module:
    """Train as Trainer comes, which includes a checkpoint per epoch, with the loss logged each step."""
    return _fit(problem, True)
