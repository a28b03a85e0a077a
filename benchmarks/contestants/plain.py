"""Hand-written loops: the floor, and what people add to it.

Owns: contestants that use torch alone. Must not: import a framework.
"""

from __future__ import annotations

from itertools import chain, islice, repeat

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.problem import BATCH_SIZE, LR, NUM_SAMPLES, Problem


def train(problem: Problem, clip_norm: float | None = None) -> nn.Module:
    """Train with forward, backward, step, zero_grad and nothing else (and clipping if asked)."""
    model, loader = problem.model(), problem.loader()
    optimizer = problem.optimizer(model)
    for inputs, labels in islice(chain.from_iterable(repeat(loader)), problem.num_steps):
        with problem.autocast():
            loss = cross_entropy(model(inputs), labels)
        loss.backward()
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return model


def train_clipped(problem: Problem) -> nn.Module:
    """Train the plain loop with the gradient norm clipped to 1."""
    return train(problem, clip_norm=1.0)


def train_by_index(problem: Problem) -> nn.Module:
    """Train without a DataLoader: one permutation an epoch, one index operation a batch."""
    model = problem.model()
    optimizer = problem.optimizer(model)
    step = 0
    while step < problem.num_steps:
        for chosen in torch.randperm(NUM_SAMPLES).split(BATCH_SIZE)[: problem.num_steps - step]:
            with problem.autocast():
                loss = cross_entropy(model(problem.inputs[chosen]), problem.labels[chosen])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
    return model


def train_amp_recipe(problem: Problem) -> nn.Module:
    """Train as torch's automatic mixed precision recipe says: autocast and a dynamic GradScaler.

    The scaler is on in every precision, so in FP32 and BF16 this is the plain loop with torch's own non-finite guard.
    """
    model, loader = problem.model(), problem.loader()
    optimizer, scaler = problem.optimizer(model), torch.amp.GradScaler("cpu")
    for inputs, labels in islice(chain.from_iterable(repeat(loader)), problem.num_steps):
        optimizer.zero_grad(set_to_none=True)
        with problem.autocast():
            loss = cross_entropy(model(inputs), labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    return model


class _Meter:
    """A running mean."""

    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def update(self, value: float, count: int) -> None:
        self.total += value * count
        self.count += count


def train_timm_style(problem: Problem) -> nn.Module:
    """Train as image-classification scripts do: loss.item() each step, a schedule by update count, a line per 50."""
    model, loader = problem.model(), problem.loader()
    optimizer = problem.optimizer(model)
    losses, updates = _Meter(), 0
    for epoch in range(problem.num_epochs):
        for index, (inputs, labels) in enumerate(islice(loader, problem.num_steps - updates)):
            with problem.autocast():
                loss = cross_entropy(model(inputs), labels)
            losses.update(loss.item(), inputs.size(0))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            updates += 1
            for group in optimizer.param_groups:
                group["lr"] = LR
            if index % 50 == 0:
                print(f"epoch {epoch} [{index}/{len(loader)}] loss {losses.total / losses.count:.4f} lr {LR:.3e}")
    return model
