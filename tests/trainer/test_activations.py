"""Planned activations against what a real forward saves, on the CPU."""

import pytest
import torch

from mptrain.interfaces import Batch
from mptrain.trainer.activations import activation_bytes, saved_bytes
from tests.trainer.runs import build

IMAGES = {"name": "synthetic", "input_shape": [3, 64, 64], "num_outputs": 10, "num_train": 16, "num_test": 8}
CASES = {
    "resnet18": {"model": {"name": "resnet18"}, "data": IMAGES | {"batch_size": 4}},
    "small_vit": {"model": {"name": "small_vit", "patch_size": 8}, "data": IMAGES | {"batch_size": 8}},
    "vit_b_32": {"model": {"name": "vit_b_32"}, "data": IMAGES | {"batch_size": 4}},
    "mlp": {"model": {"name": "mlp", "hidden": [256, 128], "norm": "layer", "dropout": 0.5}},
    "gpt": {
        "model": {"name": "gpt", "width": 32, "depth": 2, "heads": 2},
        "data": {"name": "shakespeare", "context": 64, "batch_size": 8},
        "task": "language_modelling",
    },
    "unet": {
        "model": {"name": "unet", "widths": [8, 16]},
        "data": {"name": "blue_marble", "image_size": [32, 32], "crops_per_epoch": 8, "batch_size": 4},
        "task": "segmentation",
    },
    "regression": {
        "data": {"name": "line", "batch_size": 256},
        "model": {"name": "mlp", "hidden": [64, 64], "norm": "batch"},
        "task": "regression",
    },
}


@pytest.mark.parametrize(
    "precision",
    [{"mode": "fp32"}, {"mode": "bf16"}, {"mode": "bf16-pure"}, {"mode": "fp16", "backend": "emulated"}],
    ids=str,
)
@pytest.mark.parametrize("case", sorted(CASES))
def test_planned_activations_are_those_that_a_forward_saves(case, precision):
    run = build(CASES[case] | {"precision": precision, "train": {"max_steps": 2, "channels_last": case == "resnet18"}})
    model, task, policy = run.parts.model, run.parts.task, run.parts.policy
    size = run.config.data.batch_size
    planned = activation_bytes(
        model, task, run.spec, policy, batch_size=size, channels_last=run.config.train.channels_last
    )
    of_the_set = next(iter(run.train_loader.epoch(0)))
    batch = Batch(of_the_set.inputs.clone(), of_the_set.targets.clone())
    assert batch.size == size
    state = [*model.parameters(), *model.buffers()]
    with policy.arithmetic(), policy.autocast():
        measured = saved_bytes(lambda: task.loss(model, batch), state)
    # Norms of 16-bit inputs keep their statistics in that format on fake tensors, in FP32 on a CPU.
    assert planned == pytest.approx(measured, rel=0 if precision["mode"] == "fp32" else 0.01)
    assert planned > batch.inputs.numel()


def test_a_storage_counts_once_and_weights_do_not():
    weight = torch.ones(4, 4, requires_grad=True)
    values = torch.ones(2, 4, requires_grad=True)

    def run() -> torch.Tensor:
        return (values @ weight).exp().sum() + (values[:1] @ weight.T).sum()  # views of one storage each

    assert saved_bytes(run, [weight]) == values.nbytes + 4 * 2 * 4  # the inputs once, what exp gave
    assert saved_bytes(run, []) == values.nbytes + 4 * 2 * 4 + weight.nbytes


def test_the_state_is_left_as_it_is():
    run = build({"model": {"name": "mlp", "hidden": [16], "norm": "batch"}})
    before = {name: value.clone() for name, value in run.parts.model.state_dict().items()}
    activation_bytes(run.parts.model, run.parts.task, run.spec, run.parts.policy, batch_size=8, channels_last=False)
    after = run.parts.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(p.grad is None for p in run.parts.model.parameters())


def test_a_task_without_blank_targets_counts_the_forward_only():
    run = build({"model": {"name": "linear"}})
    task = run.parts.task
    whole = activation_bytes(run.parts.model, task, run.spec, run.parts.policy, batch_size=8, channels_last=False)
    task.blank_targets = lambda inputs: None
    alone = activation_bytes(run.parts.model, task, run.spec, run.parts.policy, batch_size=8, channels_last=False)
    batch = Batch(torch.zeros(8, 8), None)
    assert alone == batch.inputs.nbytes
    assert whole > alone
