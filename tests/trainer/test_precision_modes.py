"""Every precision mode in the real loop: what the plan says is what a forward and a backward do, and what is held."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from mptrain.config.schema import ModelConfig
from mptrain.interfaces import DataSpec
from mptrain.precision.modes import MODES
from mptrain.precision.regions import DTYPES
from mptrain.trainer.memory_plan import held_bytes
from tests.trainer.runs import build, fitted, registered, trainer

ROUNDINGS = ("nearest", "stochastic", "kahan")
PRECISIONS = [
    *({"mode": mode, "backend": "emulated"} for mode in MODES),
    *({"mode": mode, "rounding": r} for mode in ("fp16-pure", "bf16-pure") for r in ROUNDINGS[1:]),
    *({"mode": "fp8", "backend": "emulated", "fp8": {"recipe": r}} for r in ("rowwise", "rowwise_with_gw_hp")),
    {"mode": "e3m4", "backend": "emulated"},
]
IMAGES = {
    "model": {"name": "convnet_for_tests"},
    "data": {"name": "synthetic", "input_shape": [1, 8, 8], "num_outputs": 4, "num_train": 64, "batch_size": 8},
    "log": {"every": 5, "numerics_every": 3},
}


def _id(precision: dict) -> str:
    return "-".join(str(v) for k, v in precision.items() if k != "backend").replace("'", "")


def _convnet(config: ModelConfig, spec: DataSpec) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, groups=2, bias=False),
        nn.GroupNorm(4, 16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 36, 32),
        nn.LayerNorm(32),
        nn.GELU(),
        nn.Linear(32, spec.num_outputs),
    )


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    with registered("convnet_for_tests", _convnet):
        yield


@contextmanager
def _probes(model: nn.Module) -> Iterator[dict[str, list[torch.dtype]]]:
    """Note the dtype of each module's output and of that output's gradient."""
    seen: dict[str, list[torch.dtype]] = {}
    hooks = []
    for name, module in model.named_modules():

        def forward(module, inputs, output, name=name):
            if torch.is_grad_enabled():
                seen[name] = [output.dtype]
                output.register_hook(lambda gradient, name=name: seen[name].append(gradient.dtype))

        if not list(module.children()):
            hooks.append(module.register_forward_hook(forward))
    yield seen
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("precision", PRECISIONS, ids=_id)
def test_the_plan_is_what_happens(precision):
    made = trainer(IMAGES | {"train": {"max_steps": 3}, "precision": precision})
    model, plan = made.run.parts.model, made.run.parts.policy.plan
    gradients = {}
    for name, parameter in model.named_parameters():
        parameter.register_hook(lambda gradient, name=name: gradients.__setitem__(name, gradient.dtype))
    with _probes(model) as seen:
        made.fit()
    layers = (nn.Conv2d, nn.Linear)
    for planned in plan.modules:
        module = model.get_submodule(planned.name)
        for own, parameter in module.named_parameters(recurse=False):
            assert parameter.dtype == DTYPES[planned.stored]
            assert gradients[f"{planned.name}.{own}"] == DTYPES[planned.gradient]
        if isinstance(module, layers):
            expected = DTYPES.get(planned.computed, torch.float32)
            assert seen[planned.name] == [expected, expected], planned
    assert {type(module).__name__ for module in model.modules() if isinstance(module, layers)} == {"Conv2d", "Linear"}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("precision", PRECISIONS, ids=_id)
def test_held_bytes_are_those_of_the_plan(precision, optimizer):
    run = fitted(
        IMAGES
        | {
            "train": {"max_steps": 3, "clip_norm": 1.0},
            "precision": precision,
            "optimizer": {"name": optimizer, "lr": 0.01},
            "ema": 0.9,
        }
    ).run
    planned, held = run.memory.as_dict(), held_bytes(run.parts).as_dict()
    assert held["weights"] > 0
    for what, size in planned.items():
        assert held[what] == pytest.approx(size, rel=0.02), what


@pytest.mark.parametrize("accumulate", [1, 3])
def test_summed_gradients_of_master_weights_are_planned_too(accumulate):
    run = fitted(
        IMAGES | {"train": {"max_steps": 3, "accumulate": accumulate}, "precision": {"mode": "bf16-master"}}
    ).run
    assert held_bytes(run.parts).as_dict() == pytest.approx(run.memory.as_dict(), rel=0.02)


@pytest.mark.parametrize("precision", PRECISIONS, ids=_id)
def test_every_mode_learns(precision):
    made = fitted(
        IMAGES
        | {
            "data": IMAGES["data"] | {"num_test": 64},
            "train": {"max_steps": 60},
            "precision": precision,
            "optimizer": {"name": "adamw", "lr": 0.003, "beta2": 0.98},
        }
    )
    assert made.ledger.counts.applied == 60
    first, last = made.reporter.windows[0].loss, made.reporter.windows[-1].loss
    assert last < 0.8 * first


def test_an_override_is_what_happens():
    rule = {"match": "7", "dtype": "fp32"}
    made = trainer(IMAGES | {"train": {"max_steps": 2}, "precision": {"mode": "bf16-pure", "overrides": [rule]}})
    model = made.run.parts.model
    with _probes(model) as seen:
        made.fit()
    assert seen["7"] == [torch.float32, torch.float32]
    assert seen["10"] == [torch.bfloat16, torch.bfloat16]
    assert model.get_submodule("7").weight.dtype == torch.float32
    assert model.get_submodule("10").weight.dtype == torch.bfloat16


def test_an_fp16_module_in_an_fp32_run_is_loss_scaled():
    run = build(IMAGES | {"precision": {"mode": "fp32", "overrides": [{"match": "7", "dtype": "fp16"}]}})
    assert run.in_force.loss_scale == "dynamic"
