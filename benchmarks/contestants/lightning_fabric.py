"""Lightning Fabric.

Owns: the Fabric contestant. Must not: do more than its quick start does.
"""

from __future__ import annotations

from itertools import chain, islice, repeat

from lightning.fabric import Fabric
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.problem import Problem

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def train(problem: Problem) -> nn.Module:
    """Train the plain loop with model, optimizer and loader set up by Fabric."""
    fabric = Fabric(accelerator="cpu", devices=1, precision=PRECISIONS[problem.precision])
    bare = problem.model()
    model, optimizer = fabric.setup(bare, problem.optimizer(bare))
    loader = fabric.setup_dataloaders(problem.loader())
    for inputs, labels in islice(chain.from_iterable(repeat(loader)), problem.num_steps):
        loss = cross_entropy(model(inputs), labels)
        fabric.backward(loss)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return bare
