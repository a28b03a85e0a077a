"""Keras 3 on its torch backend.

Owns: the Keras contestant. Must not: use torch's optimizer; Keras has its own.
"""

from __future__ import annotations

import os

os.environ["KERAS_BACKEND"] = "torch"

import keras
from torch import Tensor, nn

from benchmarks.problem import BATCH_SIZE, LR, MOMENTUM, NUM_CLASSES, NUM_FEATURES, NUM_HIDDEN, WEIGHT_DECAY, Problem

POLICIES = {"fp32": "float32", "bf16": "mixed_bfloat16", "fp16": "mixed_float16"}


class _Model(keras.Model):
    """The same network in Keras layers, with the same initial weights."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.problem = problem
        self.hidden = keras.layers.Dense(NUM_HIDDEN)
        self.head = keras.layers.Dense(NUM_CLASSES)
        self.hidden.build((None, NUM_FEATURES))
        self.head.build((None, NUM_HIDDEN))
        initial = problem.model()
        for ours, theirs in ((self.hidden, initial.hidden), (self.head, initial.head)):
            ours.set_weights([theirs.weight.detach().T.numpy(), theirs.bias.detach().numpy()])

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        """Map inputs (N, 64) to logits (N, 10)."""
        hidden = self.hidden(inputs)
        if training:
            self.problem.clock.tick(hidden.dtype)
        return self.head(keras.ops.relu(hidden))


def train(problem: Problem) -> nn.Module:
    """Train by Model.fit without its progress bar."""
    keras.mixed_precision.set_dtype_policy(POLICIES[problem.precision])
    model = _Model(problem)
    if problem.optimizer_name == "sgd":
        optimizer = keras.optimizers.SGD(LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    else:
        optimizer = keras.optimizers.AdamW(LR, weight_decay=WEIGHT_DECAY)
    model.compile(optimizer=optimizer, loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    inputs, labels = problem.inputs.numpy(), problem.labels.numpy()
    model.fit(inputs, labels, batch_size=BATCH_SIZE, epochs=problem.num_epochs, shuffle=True, verbose=0)
    return model
