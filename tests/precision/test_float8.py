"""Which layers FP8 takes and why not the others, conversion in place, rows checked beforehand, torchao missing."""

import copy
import logging
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from itertools import product

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mptrain.errors import CapabilityError, ConfigError
from mptrain.precision import float8
from mptrain.precision.float8 import check_rows, convert, impossible, require_torchao, support, why_not
from mptrain.precision.modes import FP8_RECIPES, MODES

RECIPES = list(FP8_RECIPES)


def mode_of(recipe):
    return replace(MODES["fp8"], gemm=FP8_RECIPES[recipe])


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(64, 32)
        self.norm = nn.LayerNorm(32)
        self.up = nn.Linear(32, 64)
        self.down = nn.Linear(64, 32, bias=False)
        self.again = self.down
        self.head = nn.Linear(32, 64, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.norm(self.embed(tokens))
        for _ in range(2):
            hidden = hidden + self.down(self.up(hidden).relu())
        return self.head(self.again(self.up(hidden)))


def sqnr_db(reference, found):
    return (20 * torch.log10(reference.norm() / (reference - found).norm())).item()


# ---------------------------------------------------------------------------------------------- which layers


@pytest.mark.parametrize(
    ("capability", "native"),
    [
        ((8, 6), set()),
        ((8, 9), {"fp8"}),
        ((9, 0), {"fp8"}),
        ((10, 0), {"fp8", "mxfp8", "nvfp4"}),
        ((10, 3), {"fp8", "mxfp8", "nvfp4"}),
        ((12, 0), {"fp8", "mxfp8"}),
    ],
)
def test_capabilities(capability, native):
    found = {mode: support(mode, capability) for mode in ("fp8", "mxfp8", "nvfp4")}
    assert {mode for mode, (level, _) in found.items() if level == "native"} == native
    for level, reason in found.values():
        assert f"{capability[0]}.{capability[1]}" in reason
        assert ("needs an NVIDIA GPU of capability" in reason) == (level == "no")


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.Linear(4096, 4096, device="meta"), None),
        (nn.Linear(4096, 1040, device="meta"), None),
        (nn.Conv2d(64, 64, 3), "not a linear layer"),
        (nn.Linear(100, 60), "shape (in 100, out 60): both must be multiples of 16"),
        (nn.Linear(4096, 4100, device="meta"), "shape (in 4096, out 4100): both must be multiples of 16"),
        (
            nn.Linear(256, 256),
            "too small to pay (in 256, out 256; on an H100 FP8 loses where in <= 4096 and out <= 1024)",
        ),
        (nn.MultiheadAttention(64, 4).out_proj, "a NonDynamicallyQuantizableLinear, not nn.Linear itself"),
    ],
)
def test_why_not_tensorwise(layer, reason):
    assert why_not(layer, MODES["fp8"], is_last=False) == reason


def test_the_last_layer_stays_out_whatever_its_size():
    layer = nn.Linear(4096, 4096, device="meta")
    assert [why_not(layer, MODES[mode], is_last=True) for mode in ("fp8", "mxfp8", "nvfp4")] == ["last layer"] * 3
    assert impossible(layer, MODES["fp8"]) is None


@pytest.mark.parametrize("recipe", RECIPES)
def test_sizes_that_pay_are_torchaos(recipe):
    require_torchao("fp8")
    from torchao.float8 import _auto_filter_for_recipe

    pays = _auto_filter_for_recipe("tensorwise" if recipe == "tensorwise" else "rowwise", [])
    reasons = set()
    for inputs, outputs in product([1024, 1040, 2048, 4096, 8192], [1024, 2048, 2064, 4096, 8192]):
        layer = nn.Linear(inputs, outputs, device="meta")
        reason = why_not(layer, mode_of(recipe), is_last=False)
        assert pays(layer, "layer") == (reason is None), (inputs, outputs)
        reasons.add(reason and reason.split(" (")[0])
    assert reasons == {None, "too small to pay"}


@pytest.mark.parametrize(("mode", "multiple"), [("mxfp8", 32), ("nvfp4", 128)])
def test_blocks_set_the_shape(mode, multiple):
    assert why_not(nn.Linear(multiple, 2 * multiple), MODES[mode], is_last=False) is None
    odd = why_not(nn.Linear(multiple, multiple + 16), MODES[mode], is_last=False)
    assert odd == f"shape (in {multiple}, out {multiple + 16}): both must be multiples of {multiple}"


# ------------------------------------------------------------------------------------------------ conversion


@pytest.mark.parametrize("recipe", RECIPES)
def test_conversion_keeps_names_objects_and_ties(recipe):
    torch.manual_seed(0)
    net = Net()
    parameters, keys = dict(net.named_parameters()), list(net.state_dict())
    kept = net.head
    convert(net, ["up", "down"], recipe, emulate=True)
    assert [type(net.get_submodule(name)).__name__ for name in ("up", "down", "again")] == ["Float8Linear"] * 3
    assert net.again is net.down
    assert net.head is kept
    assert net.head.weight is net.embed.weight
    assert list(net.state_dict()) == keys
    now = dict(net.named_parameters())
    assert list(now) == list(parameters)
    assert all(now[name] is parameters[name] for name in parameters)


@pytest.mark.parametrize("recipe", RECIPES)
def test_an_emulated_step_is_near_fp32s(recipe):
    torch.manual_seed(0)
    net = Net()
    reference = copy.deepcopy(net)
    tokens = torch.randint(0, 64, (4, 16))
    convert(net, ["up", "down"], recipe, emulate=True)
    gradients = []
    for model in (reference, net):
        nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, exact in gradients[0].items():
        assert gradients[1][name].dtype == torch.float32
        assert 14 < sqnr_db(exact, gradients[1][name]) < 60, name
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, fused=True)
    optimizer.found_inf = torch.ones(())
    before = copy.deepcopy(net.state_dict())
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    optimizer.found_inf = torch.zeros(())
    optimizer.step()
    assert not any(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    reference.load_state_dict(net.state_dict())
    assert torch.equal(reference.up.weight, net.up.weight)


class HostReads(TorchDispatchMode):
    reads = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.reads += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("recipe", RECIPES)
def test_no_host_read_in_a_step(recipe):
    net = Net()
    convert(net, ["up", "down"], recipe, emulate=True)
    with HostReads() as counter:
        net(torch.randint(0, 64, (4, 16))).square().mean().backward()
    assert counter.reads == 0
    assert net.up.weight.grad is not None


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_a_non_finite_gradient_stays_visible(recipe, value):
    net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 32, bias=False))
    convert(net, ["0", "2"], recipe, emulate=True)
    output = net(torch.randn(32, 64))
    gradient = torch.ones_like(output)
    gradient[3, 5] = value
    output.backward(gradient)
    assert not any(parameter.grad.isfinite().all() for parameter in net.parameters())


# ------------------------------------------------------------------------------------------------------ rows


def net_rows(batch_sizes, recipe="tensorwise", length=4):
    check_rows(Net(), ["up", "down"], mode_of(recipe), torch.zeros(2, length, dtype=torch.long), batch_sizes)


def test_rows_that_fit():
    net_rows([8])
    net_rows([8, 4], length=20)


def test_rows_that_do_not_fit_name_layer_rows_rule_and_remedy():
    with pytest.raises(ConfigError) as caught:
        net_rows([8, 3])
    assert caught.value.problems == [
        "precision.mode: fp8: up (and 1 more) sees 12 rows in a last batch of 3, and its weight's gradient needs a "
        "multiple of 16; set data.drop_last=true, or use precision.fp8.recipe=rowwise_with_gw_hp"
    ]
    with pytest.raises(ConfigError, match=r"sees 28 rows in a batch of 7.*choose data.batch_size"):
        net_rows([7])


def test_rows_do_not_matter_where_the_weight_gradient_is_not_fp8():
    net_rows([7, 3], recipe="rowwise_with_gw_hp")


def test_checking_rows_changes_nothing():
    model = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 16))
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    with pytest.raises(ConfigError):
        check_rows(model, ["0", "3"], MODES["fp8"], torch.ones(4, 16), [17])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert not model[0]._forward_pre_hooks


class ByValue(nn.Linear):
    def forward(self, input):
        return super().forward(input[: int(input.sum())])


def test_a_forward_that_reads_values_is_refused():
    with pytest.raises(ConfigError, match="use precision=bf16"):
        check_rows(ByValue(16, 16), [""], MODES["fp8"], torch.ones(4, 16), [16])


# --------------------------------------------------------------------------------------------------- torchao


def test_torchao_that_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(CapabilityError) as caught:
        require_torchao("fp8")
    assert str(caught.value) == "precision.mode: fp8 needs torchao, which is missing: pip install 'mptrain[fp8]'"


@pytest.mark.parametrize("mode", ["fp8", "mxfp8", "nvfp4"])
def test_torchao_that_does_not_fit_torch(monkeypatch, mode):
    monkeypatch.setitem(sys.modules, float8._TORCHAO_MODULES[mode], None)
    with pytest.raises(CapabilityError) as caught:
        require_torchao(mode)
    text = str(caught.value)
    assert text.startswith(
        f"precision.mode: {mode} does not work with torchao {version('torchao')} and torch {torch.__version__} ("
    )
    assert text.endswith("): pip install -U 'mptrain[fp8]'")


def test_importing_torchao_prints_nothing():
    code = "from mptrain.precision.float8 import NEEDS, require_torchao; [require_torchao(mode) for mode in NEEDS]"
    made = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert (made.stdout, made.stderr) == ("", "")


def test_only_that_line_is_kept_off(caplog):
    logger = logging.getLogger("torch.utils._pytree")
    with float8._quiet_import():
        logger.warning("%s is an Enum subclass and is now natively supported", object)
        logger.warning("something else")
    logger.warning("%s is an Enum subclass, later", object)
    assert [record.message for record in caplog.records] == ["something else", f"{object} is an Enum subclass, later"]
