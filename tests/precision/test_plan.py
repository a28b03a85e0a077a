"""What each module gets in every mode, by the plan alone."""

import pytest
import torch
from torch import nn

from mptrain.config.precision import PrecisionConfig
from mptrain.errors import ConfigError
from mptrain.precision.modes import MODES, get_mode
from mptrain.precision.plan import Plan, make_plan


class RmsNormalised(nn.Module):
    """A norm that only its name gives away."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))


RmsNormalised.__name__ = "FancyNorm"


def _model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8, 16),
        RmsNormalised(),
        nn.Linear(16, 4),
    )


def _plan(mode: str, *overrides: dict, emulated: bool = False, why_not=lambda layer, last: None) -> Plan:
    backend = "emulated" if emulated else "auto"
    config = PrecisionConfig(mode=mode, backend=backend, overrides=overrides)
    return make_plan(_model(), get_mode(mode), config, emulated=emulated, why_not=why_not)


@pytest.mark.parametrize("mode", MODES)
def test_norms_are_never_below_fp32_and_every_parameter_is_accounted_for(mode):
    plan = _plan(mode, emulated=True)
    by_name = {module.name: module for module in plan.modules}
    high = "fp64" if mode == "fp64" else "fp32"
    for norm in ("1", "5"):
        assert (by_name[norm].stored, by_name[norm].computed, by_name[norm].gradient) == (high, high, high)
    assert sum(module.parameters for module in plan.modules) == sum(p.numel() for p in _model().parameters())
    assert all(module.reason for module in plan.modules)


@pytest.mark.parametrize(
    ("mode", "stored", "computed"),
    [
        ("fp16", "fp32", "fp16"),
        ("bf16-master", "bf16", "bf16"),
        ("fp16-pure", "fp16", "fp16"),
        ("tf32", "fp32", "tf32"),
        ("fp64", "fp64", "fp64"),
    ],
)
def test_layers_with_products_follow_the_mode(mode, stored, computed):
    layer = next(module for module in _plan(mode).modules if module.type == "Linear")
    assert (layer.stored, layer.computed, layer.gradient) == (stored, computed, stored)


def test_a_norm_that_torch_does_not_mix_runs_apart_in_fp32():
    assert _plan("bf16").regions == {"5": "fp32"}
    assert _plan("fp32").regions == {}


@pytest.mark.parametrize("mode", ["bf16", "bf16-pure", "fp16-master"])
@pytest.mark.parametrize("norm", [nn.RMSNorm(8, elementwise_affine=False), nn.LocalResponseNorm(2)])
def test_a_norm_without_parameters_runs_apart_too(mode, norm):
    plan = make_plan(
        nn.Sequential(nn.Linear(4, 8), norm),
        get_mode(mode),
        PrecisionConfig(mode=mode),
        emulated=False,
        why_not=lambda layer, last: None,
    )
    assert plan.regions == {"1": "fp32"}
    assert [(module.name, module.computed, module.parameters) for module in plan.modules][1] == ("1", "fp32", 0)


def test_an_override_sets_its_module_apart_and_keeps_its_weights_wide():
    plan = _plan("fp16-pure", {"match": "4", "dtype": "fp32"})
    layer = next(module for module in plan.modules if module.name == "4")
    assert (layer.stored, layer.computed) == ("fp32", "fp32")
    assert "rule 1" in layer.reason
    assert plan.regions["4"] == "fp32"


def test_fp16_anywhere_is_a_format_in_use():
    assert "fp16" in _plan("fp32", {"match": "0", "dtype": "fp16"}).formats_in_use
    assert "fp16" not in _plan("bf16").formats_in_use


def test_refused_layers_carry_the_reason():
    plan = _plan("fp8", emulated=True, why_not=lambda layer, last: "last layer" if last else None)
    assert set(plan.layers) == {"0", "4"}
    assert next(module for module in plan.modules if module.name == "6").reason == "last layer"


def test_operands_can_be_overridden_one_by_one():
    plan = _plan("fp8", {"match": "4", "role": "grad_output", "dtype": "e4m3"}, emulated=True)
    formats = plan.layers["4"]
    assert (formats.input, formats.grad_output_for_input, formats.grad_output_for_weight) == ("e4m3", "e4m3", "e4m3")
    assert plan.layers["0"].grad_output_for_weight == "e5m2"


def test_fp8_can_be_asked_for_in_some_modules_only():
    assert set(_plan("bf16", {"match": "4", "dtype": "fp8"}).layers) == {"4"}


@pytest.mark.parametrize(
    ("mode", "rule", "emulated", "said"),
    [
        ("bf16", {"match": "4", "dtype": "e4m3"}, False, "backend=emulated"),
        ("bf16", {"match": "4", "dtype": "e5m2", "role": "weight"}, False, "backend=emulated"),
        ("bf16", {"match": "4", "dtype": "tf32"}, True, "one switch for the whole process"),
        ("fp64", {"match": "4", "dtype": "e4m3"}, True, "use precision=fp32"),
        ("fp64", {"match": "4", "dtype": "bf16", "role": "weight"}, True, "use precision=fp32"),
        ("bf16", {"match": "4", "dtype": "fp64", "role": "input"}, True, "fp64 is wider"),
        ("tf32", {"match": "4", "dtype": "fp32"}, False, "one switch for the whole process"),
        ("bf16", {"match": "1", "dtype": "e4m3"}, True, "matches no linear layer or convolution"),
    ],
)
def test_what_cannot_be_done_per_module_is_refused_with_the_way_out(mode, rule, emulated, said):
    with pytest.raises(ConfigError, match=said):
        _plan(mode, rule, emulated=emulated)


def test_norms_may_be_named_fp32_where_products_are_tf32():
    plan = _plan("tf32", {"match": "type:BatchNorm2d", "dtype": "fp32"}, emulated=True)
    assert next(module for module in plan.modules if module.name == "1").computed == "fp32"
