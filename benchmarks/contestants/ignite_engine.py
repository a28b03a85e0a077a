"""PyTorch Ignite.

Owns: the Ignite contestant. Must not: do more than its quick start does.
"""

from __future__ import annotations

import torch
from ignite.engine import Engine, create_supervised_trainer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.problem import Problem


def train(problem: Problem) -> nn.Module:
    """Train through create_supervised_trainer; in low precision through an Engine, as its AMP mode is for CUDA only."""
    model = problem.model()
    optimizer = problem.optimizer(model)

    def update(engine: Engine, batch: list[Tensor]) -> float:
        model.train()
        optimizer.zero_grad()
        with problem.autocast():
            loss = cross_entropy(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        return loss.item()

    if problem.precision == "fp32":
        trainer = create_supervised_trainer(model, optimizer, nn.CrossEntropyLoss(), device=torch.device("cpu"))
    else:
        trainer = Engine(update)
    trainer.run(problem.loader(), max_epochs=problem.num_epochs)
    return model
