"""PyTorch Ignite.

Owns: the Ignite contestant. Must not: do more than its quick start does.
"""

from __future__ import annotations

import torch
from ignite.engine import create_supervised_trainer
from torch import Tensor, nn

from benchmarks.problem import Problem


def train(problem: Problem) -> nn.Module:
    """Train through create_supervised_trainer; its own AMP mode is for CUDA only, so autocast enters by model_fn."""
    model = problem.model()

    def forward(model: nn.Module, inputs: Tensor) -> Tensor:
        with problem.autocast():
            return model(inputs)

    def plain_forward(model: nn.Module, inputs: Tensor) -> Tensor:
        return model(inputs)

    trainer = create_supervised_trainer(
        model,
        problem.optimizer(model),
        nn.CrossEntropyLoss(),
        device=torch.device("cpu"),
        model_fn=plain_forward if problem.precision == "fp32" else forward,
    )
    trainer.run(problem.loader(), max_epochs=problem.num_epochs)
    return model
