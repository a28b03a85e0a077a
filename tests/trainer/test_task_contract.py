"""What a task may return as its loss, said in one line where it does not."""

from dataclasses import replace

import pytest
import torch

from mptrain.errors import ConfigError
from mptrain.trainer.trainer import Trainer
from tests.trainer.runs import Recorder, build


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda loss: loss.unsqueeze(0), r"a tensor of shape \(1,\)"),
        (lambda loss: torch.stack([loss, loss]), r"a tensor of shape \(2,\)"),
        (lambda loss: None, "a NoneType"),
        (lambda loss: 1.0, "a float"),
    ],
)
def test_a_loss_that_is_not_one_number(spoil, words):
    run = build()
    task = run.parts.task
    inner = task.loss
    task.loss = lambda model, batch: spoil(inner(model, batch))
    with pytest.raises(ConfigError, match=f"task: its loss must be one number, a 0-d tensor, and is {words}"):
        Trainer(replace(run, parts=replace(run.parts, task=task)), Recorder()).fit()
