"""The Trainer of Hugging Face transformers.

Owns: the HF Trainer contestant. Must not: save, report or clip (its default clips; the floor does not).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import Trainer, TrainingArguments

from benchmarks.problem import BATCH_SIZE, LR, SEED, Problem


class _WithLoss(nn.Module):
    """Trainer wants the loss from the model."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return loss and logits of a batch."""
        logits = self.net(inputs)
        return {"loss": cross_entropy(logits, labels), "logits": logits}


class _Samples(torch.utils.data.Dataset[dict[str, Tensor]]):
    def __init__(self, problem: Problem) -> None:
        self.inputs, self.labels = problem.inputs, problem.labels

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"inputs": self.inputs[index], "labels": self.labels[index]}


def train(problem: Problem) -> nn.Module:
    """Train with a constant rate, the same fused optimizer, and the loss logged every 50 steps."""
    model = _WithLoss(problem.model())
    arguments = TrainingArguments(
        output_dir=str(problem.folder),
        max_steps=problem.num_steps,
        per_device_train_batch_size=BATCH_SIZE,
        learning_rate=LR,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        logging_steps=50,
        save_strategy="no",
        disable_tqdm=True,
        report_to=[],
        seed=SEED,
        use_cpu=True,
        bf16=problem.precision == "bf16",
        fp16=problem.precision == "fp16",
    )
    optimizer = problem.optimizer(model)
    Trainer(model, arguments, train_dataset=_Samples(problem), optimizers=(optimizer, None)).train()
    return model.net
