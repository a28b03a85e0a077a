"""What a rule says of a module is what its forward does: formats inside, weights that are read without a call."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from mptrain.config.precision import PrecisionConfig
from mptrain.errors import ConfigError
from mptrain.precision.policy import PrecisionPolicy, resolve_policy
from mptrain.precision.regions import DTYPES

CPU = torch.device("cpu")
KINDS = (nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.ReLU, nn.Softmax, nn.MultiheadAttention)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.RMSNorm(16), nn.Linear(16, 16)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.linear(self.norm(hidden))


class Net(nn.Module):
    """The head is registered first and called last, attention's projection is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 4)
        self.first, self.act, self.block = nn.Linear(8, 16), nn.ReLU(), Residual()
        self.norm, self.gate = nn.LayerNorm(16), nn.Softmax(-1)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.norm(self.block(self.act(self.first(inputs))))
        hidden = hidden + self.attention(hidden, hidden, hidden)[0]
        return self.head(hidden * self.gate(hidden))


@contextmanager
def _inside() -> Iterator[dict[nn.Module, torch.dtype]]:
    """Note the format in which the modules' own forwards return, inside whatever runs them apart."""
    seen: dict[nn.Module, torch.dtype] = {}

    def noting(own):
        def forward(self, *args, **kwargs):
            outputs = own(self, *args, **kwargs)
            seen[self] = (outputs[0] if isinstance(outputs, tuple) else outputs).dtype
            return outputs

        return forward

    patches = [patch.object(kind, "forward", noting(kind.forward)) for kind in KINDS]
    for each in patches:
        each.start()
    yield seen
    for each in patches:
        each.stop()


def _prepared(mode: str, *rules: dict, backend: str = "emulated") -> tuple[PrecisionPolicy, nn.Module]:
    policy = resolve_policy(PrecisionConfig(mode=mode, backend=backend, overrides=rules), CPU)
    model = Net()
    policy.prepare(model, policy.convert_input(torch.zeros(2, 3, 8)), {2})
    return policy, model


def _step(policy: PrecisionPolicy, model: nn.Module) -> None:
    with policy.arithmetic():
        with policy.autocast():
            outputs = model(policy.convert_input(torch.randn(2, 3, 8)))
        outputs.double().square().sum().backward()


@pytest.mark.parametrize("mode", ["fp64", "fp32", "bf16", "fp16-master", "bf16-pure"])
@pytest.mark.parametrize("dtype", ["fp64", "fp32", "bf16", "fp16"])
@pytest.mark.parametrize("match", ["head", "norm", "block", "act", "gate", "attention", "type:Linear", "*"])
def test_modules_under_a_rule_take_and_return_its_format(mode, dtype, match):
    with _inside() as seen:
        policy, model = _prepared(mode, {"match": match, "dtype": dtype})
        seen.clear()
        _step(policy, model)
    ruled = [planned for planned in policy.plan.modules if "rule 1" in planned.reason]
    assert ruled
    for planned in ruled:
        module = model.get_submodule(planned.name)
        assert planned.computed == dtype
        for parameter in module.parameters(recurse=False):
            assert parameter.dtype == DTYPES[planned.stored]
            assert parameter.grad.dtype == DTYPES[planned.gradient]
        # A norm computes in FP32 between rounding what it takes and what it returns.
        rounded = planned.name in policy.plan.rounded and list(module.parameters())
        if module in seen:
            assert seen[module] == (torch.float32 if rounded else DTYPES[dtype]), planned


@pytest.mark.parametrize("match", ["act", "norm", "gate", "block.norm"])
def test_a_module_without_products_returns_numbers_of_its_format(match):
    policy, model = _prepared("fp32", {"match": match, "dtype": "bf16"})
    returned = []
    model.get_submodule(match).register_forward_hook(lambda module, inputs, output: returned.append(output))
    _step(policy, model)
    (output,) = returned
    assert output.dtype == torch.float32
    assert torch.equal(output, output.bfloat16().float())


def test_a_norm_inside_a_ruled_container_hands_on_its_format():
    policy, model = _prepared("fp32", {"match": "block", "dtype": "bf16"})
    returned = []
    model.block.norm.register_forward_hook(lambda module, inputs, output: returned.append(output.dtype))
    _step(policy, model)
    assert returned == [torch.bfloat16]


def test_a_layer_that_is_never_called_follows_the_module_that_reads_its_weight():
    policy, _ = _prepared("bf16", {"match": "type:Linear", "dtype": "fp32"})
    by_name = {planned.name: planned for planned in policy.plan.modules}
    assert by_name["first"].computed == "fp32"
    assert by_name["attention.out_proj"].computed == "bf16"
    assert "never called" in by_name["attention.out_proj"].reason
    policy, _ = _prepared("bf16", {"match": "attention", "dtype": "fp32"})
    by_name = {planned.name: planned for planned in policy.plan.modules}
    assert by_name["attention.out_proj"].computed == "fp32"


def test_operand_formats_pass_over_what_is_never_called_and_the_last_call_is_the_last_layer():
    policy, _ = _prepared("fp8", {"match": "type:Linear", "dtype": "e3m4"})
    assert set(policy.plan.layers) == {"head", "first", "block.linear"}
    policy, _ = _prepared("fp8")
    by_name = {planned.name: planned for planned in policy.plan.modules}
    assert by_name["head"].reason == "last layer"
    assert set(policy.plan.layers) == {"first", "block.linear"}


@pytest.mark.parametrize("dtype", ["fp32", "e4m3"])
def test_a_rule_only_for_what_is_never_called_names_the_module_around(dtype):
    with pytest.raises(ConfigError, match=r"never called.*match that one: attention"):
        _prepared("bf16", {"match": "attention.out_proj", "dtype": dtype})


def test_two_rules_of_one_mind_for_operands_both_count():
    policy, _ = _prepared("fp32", {"match": "first", "dtype": "e4m3"}, {"match": "fir*", "dtype": "e4m3"})
    assert set(policy.plan.layers) == {"first"}


def test_a_layer_named_after_a_norm_is_a_layer():
    class NormedLinear(nn.Linear):
        pass

    model = nn.Sequential(NormedLinear(8, 8), nn.Linear(8, 4))
    policy = resolve_policy(PrecisionConfig(mode="bf16"), CPU)
    policy.prepare(model, torch.zeros(2, 8), {2})
    assert policy.plan.modules[0].computed == "bf16"


@pytest.mark.parametrize("backend", ["native", "emulated"])
@pytest.mark.parametrize("mode", ["fp16", "fp16-pure"])
def test_an_lstm_computes_in_fp16_on_a_cpu(mode, backend):
    policy = resolve_policy(PrecisionConfig(mode=mode, backend=backend), CPU)
    model = nn.LSTM(8, 16, batch_first=True)
    reference = nn.LSTM(8, 16, batch_first=True)
    reference.load_state_dict(model.state_dict())
    inputs = torch.randn(2, 5, 8)
    policy.prepare(model, inputs, {2})
    with policy.arithmetic():
        with policy.autocast():
            outputs = model(inputs)[0]
        outputs.float().sum().backward()
    assert outputs.dtype == torch.float16
    assert torch.allclose(outputs.float(), reference(inputs)[0], atol=5e-3)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert torch._C._get_mkldnn_enabled()


def test_a_layer_that_cannot_be_emulated_is_named_with_the_rule():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ConvTranspose2d(4, 1, 3))
    config = PrecisionConfig(mode="bf16", backend="emulated", overrides=[{"match": "*", "dtype": "e4m3"}])
    with pytest.raises(ConfigError, match=r"rule 1 .*: 1 cannot be: ConvTranspose2d is not covered"):
        resolve_policy(config, CPU).prepare(model, torch.zeros(2, 1, 8, 8), {2})


class Gated(nn.Module):
    """Layers that autocast treats each in its own way."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act = nn.Linear(8, 8), nn.PReLU()
        self.bilinear, self.cell = nn.Bilinear(8, 8, 8), nn.GRUCell(8, 8)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.act(self.first(inputs))
        return self.cell(self.bilinear(hidden, hidden))


@pytest.mark.parametrize("mode", ["fp64", "fp32", "fp16", "fp16-pure", "bf16", "bf16-master", "fp8"])
@pytest.mark.parametrize(
    "rules", [(), ({"match": "first", "dtype": "fp32"},), ({"match": "bilinear", "dtype": "bf16"},)]
)
def test_layers_that_autocast_leaves_or_takes_run_as_planned(mode, rules):
    policy = resolve_policy(PrecisionConfig(mode=mode, backend="emulated", overrides=rules), CPU)
    model = Gated()
    policy.prepare(model, policy.convert_input(torch.zeros(2, 8)), {2})
    returned = {}
    for name, module in model.named_children():
        module.register_forward_hook(lambda module, inputs, output, name=name: returned.update({name: output.dtype}))
    with policy.arithmetic():
        with policy.autocast():
            outputs = model(policy.convert_input(torch.randn(2, 8)))
        outputs.double().sum().backward()
    by_name = {planned.name: planned for planned in policy.plan.modules}
    bilinear = by_name["bilinear"].computed
    assert bilinear == ("bf16" if rules and rules[0]["match"] == "bilinear" else policy.mode.stored)
    if policy.mode.autocast:
        assert returned["bilinear"] == DTYPES[bilinear]
        assert returned["act"] == DTYPES[by_name["act"].computed] == DTYPES[policy.mode.computed]
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_weights_of_a_model_s_own_class_are_said_to_be_autocast_by_operation():
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.positions, self.table = nn.Parameter(torch.zeros(8, 8)), nn.Embedding(4, 8)

        def forward(self, inputs: Tensor) -> Tensor:
            return inputs @ self.positions

    policy = resolve_policy(PrecisionConfig(mode="bf16"), CPU)
    policy.prepare(Positions(), torch.zeros(2, 8), {2})
    own, table = policy.plan.modules
    assert own.reason == "weights of its own: sums as stored, products in bf16"
    assert table.reason == "as stored"
