"""`task.reduction: sum`: gradients as a hand-written loop with a summed loss has them; reports keep the mean."""

import pytest
import torch
from torch.nn import functional

from tests.trainer.runs import build, fitted, merged, weights

SGD = {"name": "sgd", "lr": 0.002, "momentum": 0.9}
TASKS = {
    "classification": {"task": {"name": "classification", "reduction": "sum"}, "optimizer": SGD},
    "regression": {
        "data": {"kind": "regression"},
        "task": {"name": "regression", "reduction": "sum"},
        "optimizer": {**SGD, "lr": 0.0005},
    },
}


def by_hand(changes, *, accumulate, steps):
    """A plain loop whose loss is summed; returns the weights and the mean loss of each step."""
    run = build(changes)
    model, losses = run.parts.model, []
    optimizer = torch.optim.SGD(model.parameters(), lr=run.config.optimizer.lr, momentum=0.9, fused=True)
    batches = [batch for epoch in range(steps) for batch in run.train_loader.epoch(epoch)]
    for step in range(steps):
        optimizer.zero_grad()
        total = samples = 0
        for batch in batches[step * accumulate : (step + 1) * accumulate]:
            outputs = model(batch.inputs)
            if run.config.task.name == "classification":
                loss = functional.cross_entropy(outputs, batch.targets, reduction="sum")
            else:
                loss = functional.mse_loss(outputs, batch.targets, reduction="sum") / outputs.shape[1]
            loss.backward()
            total, samples = total + loss.item(), samples + len(batch.inputs)
        optimizer.step()
        losses.append(total / samples)
    return weights(run), losses


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("task", sorted(TASKS))
def test_learns_as_a_loop_with_a_summed_loss(task, accumulate):
    changes = merged(TASKS[task], {"train": {"accumulate": accumulate, "max_steps": 12}, "log": {"every": 1}})
    made = fitted(changes)
    expected, losses = by_hand(changes, accumulate=accumulate, steps=12)
    for mine, reference in zip(weights(made.run), expected, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-5, atol=1e-6)
    assert [window.loss for window in made.reporter.windows] == pytest.approx(losses, rel=1e-5)


def test_a_summed_loss_with_the_rate_divided_is_the_mean_loss():
    # 8 and 4 samples in one window: both weigh by their number, in the sum as in the mean.
    short = {"data": {"num_train": 12, "drop_last": False}, "train": {"accumulate": 2, "max_steps": 5}}
    mean = fitted({**short, "optimizer": {**SGD, "lr": 0.12}})
    summed = fitted({**short, "optimizer": {**SGD, "lr": 0.01}, "task": {"name": "classification", "reduction": "sum"}})
    for first, second in zip(weights(summed.run), weights(mean.run), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-6)
