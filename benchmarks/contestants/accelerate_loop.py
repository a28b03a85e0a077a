"""Hugging Face Accelerate.

Owns: the Accelerate contestant. Must not: do more than its quick start does.
"""

from __future__ import annotations

from itertools import chain, islice, repeat

from accelerate import Accelerator
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.problem import Problem


def train(problem: Problem) -> nn.Module:
    """Train the plain loop with model, optimizer and loader prepared by Accelerator."""
    accelerator = Accelerator(cpu=True, mixed_precision="no" if problem.precision == "fp32" else problem.precision)
    bare = problem.model()
    model, optimizer, loader = accelerator.prepare(bare, problem.optimizer(bare), problem.loader())
    for inputs, labels in islice(chain.from_iterable(repeat(loader)), problem.num_steps):
        loss = cross_entropy(model(inputs), labels)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return accelerator.unwrap_model(model, keep_fp32_wrapper=False)
