"""The plan of native FP8 on a GPU that is not here: which layers pay, why not the others, and whether FP8 will."""

import pytest
import torch
from torch import nn

from mptrain.config.precision import PrecisionConfig
from mptrain.precision.policy import PrecisionPolicy, resolve_policy

pytest.importorskip("torchao", reason="needs mptrain[fp8]")
WIDTH = 768


@pytest.fixture(autouse=True)
def _hopper(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))


class Block(nn.Module):
    """The linear layers of a GPT-2 block."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, hidden):
        query = self.qkv(self.norm(hidden))[..., :WIDTH]
        hidden = hidden + self.proj(query)
        return hidden + self.down(self.up(hidden))


def _prepared(model: nn.Module, **keys) -> PrecisionPolicy:
    policy = resolve_policy(PrecisionConfig(mode="fp8", **keys), torch.device("cuda:0"))
    policy.prepare(model, torch.zeros(2, 16, WIDTH, device="meta"), {2})
    return policy


def _gpt(head: int) -> nn.Module:
    with torch.device("meta"):
        return nn.Sequential(Block(), Block(), nn.Linear(WIDTH, head, bias=False))


def test_a_gpt2_says_which_layers_pay_and_why_not_the_others():
    model = _gpt(50304)
    policy = _prepared(model)
    reasons = {planned.name: planned.reason for planned in policy.plan.modules}
    assert set(policy.plan.layers) == {f"{block}.{layer}" for block in "01" for layer in ("qkv", "up")}
    assert reasons["0.qkv"] == "fp8 operands"
    assert "too small to pay (in 768, out 768; on an H100" in reasons["0.proj"]
    assert "too small to pay (in 3072, out 768; on an H100" in reasons["0.down"]
    assert reasons["2"] == "last layer"
    hardly, uncompiled = policy.notices(model, {}, compiled=False)
    assert hardly.startswith("fp8 will hardly be faster than bf16 on this model: it reaches 4 of 9 layers, 16% of")
    assert "train.compile" in uncompiled
    assert policy.notices(model, {}, compiled=True) == [hardly]


def test_a_model_of_large_layers_is_told_nothing_where_it_is_compiled():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(WIDTH, 8192), nn.Linear(8192, 8192), nn.Linear(8192, 16))
    policy = _prepared(model)
    assert set(policy.plan.layers) == {"0", "1"}
    assert policy.notices(model, {}, compiled=True) == []


def test_a_model_without_any_layer_that_pays_is_told_that_it_is_bf16():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 10))
    (notice,) = _prepared(model).notices(model, {}, compiled=True)
    assert "fp8 converts no layer of this model" in notice
    assert "it is bf16" in notice
