"""MosaicML Composer's Trainer.

Owns: the Composer contestant. Must not: do more than its quick start does.
"""

from __future__ import annotations

from composer import Trainer
from composer.models import ComposerModel
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.problem import Problem


class _Model(ComposerModel):
    """The problem as a ComposerModel."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, batch: list[Tensor]) -> Tensor:
        """Return logits."""
        return self.net(batch[0])

    def loss(self, outputs: Tensor, batch: list[Tensor]) -> Tensor:
        """Return the mean loss."""
        return cross_entropy(outputs, batch[1])


def train(problem: Problem) -> nn.Module:
    """Train without progress bar and checkpoints."""
    model = _Model(problem.model())
    trainer = Trainer(
        model=model,
        train_dataloader=problem.loader(),
        optimizers=problem.optimizer(model),
        max_duration=f"{problem.num_steps}ba",
        device="cpu",
        precision="fp32" if problem.precision == "fp32" else f"amp_{problem.precision}",
        progress_bar=False,
    )
    trainer.fit()
    return model.net
