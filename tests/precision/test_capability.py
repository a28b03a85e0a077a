"""Which mode each hardware generation gets, by the table alone: no GPU needed."""

import pytest
import torch

from mptrain.config.precision import PRECISION_MODES, PrecisionConfig
from mptrain.errors import CapabilityError
from mptrain.precision import capability
from mptrain.precision.modes import MODES
from mptrain.precision.policy import resolve_policy
from mptrain.precision.tf32 import set_tf32, tf32_state


@pytest.mark.parametrize(
    ("device_capability", "expected"),
    [((6, 1), "fp32"), ((7, 0), "fp16"), ((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")],
)
def test_auto_by_capability(monkeypatch, device_capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: device_capability)
    assert capability.resolve_auto(torch.device("cuda:0"))[0] == expected


def test_auto_on_a_cpu_is_fp32():
    policy = resolve_policy(PrecisionConfig(mode="auto"), torch.device("cpu"))
    assert policy.mode.name == "fp32"
    assert "CPU" in policy.reason


@pytest.mark.parametrize("mode", ["bf16", "bf16-pure", "tf32"])
def test_turing_refuses_what_it_would_only_imitate(monkeypatch, mode):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.raises(
        CapabilityError, match=r"needs capability 8\.0 or newer, this device has 7\.5.*nearest modes.*fp16"
    ):
        capability.require(mode, torch.device("cuda:0"))


def test_tf32_is_refused_on_a_cpu_with_alternatives():
    with pytest.raises(CapabilityError, match=r"cpu cannot run tf32.*nearest.*: fp32, fp16, .*backend=emulated"):
        resolve_policy(PrecisionConfig(mode="tf32"), torch.device("cpu"))


@pytest.mark.parametrize(
    ("mode", "device_capability", "needed"),
    [("fp8", (8, 0), "8.9"), ("mxfp8", (9, 0), "10.0"), ("nvfp4", (12, 0), "10.x"), ("e3m4", (10, 0), "no hardware")],
)
def test_narrow_formats_name_what_is_there_and_what_is_needed(monkeypatch, mode, device_capability, needed):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: device_capability)
    with pytest.raises(CapabilityError) as caught:
        capability.require(mode, torch.device("cuda:0"))
    text = str(caught.value)
    assert needed in text
    assert mode == "e3m4" or ".".join(map(str, device_capability)) in text
    assert "nearest modes that it runs: " in text
    assert "precision.backend=emulated" in text


@pytest.mark.parametrize("mode", ["tf32", "fp8", "mxfp8", "nvfp4", "e2m3"])
def test_emulation_is_a_choice_and_takes_any_format_anywhere(mode):
    config = PrecisionConfig(mode=mode, backend="emulated")
    assert resolve_policy(config, torch.device("cpu")).emulated
    for backend in ("auto", "native"):
        with pytest.raises(CapabilityError):
            resolve_policy(PrecisionConfig(mode=mode, backend=backend), torch.device("cpu"))


def test_every_mode_is_described():
    assert {"auto", *MODES} == set(PRECISION_MODES)


def test_fp16_convolutions_on_a_cpu_are_announced_with_a_way_out():
    policy = resolve_policy(PrecisionConfig(mode="fp16"), torch.device("cpu"))
    convolutional = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten(), torch.nn.Linear(2, 2))
    (notice,) = policy.notices(convolutional, {}, compiled=False)
    assert "60 times slower" in notice
    assert "precision.backend=emulated" in notice
    assert "precision=bf16" in notice
    assert policy.notices(torch.nn.Linear(2, 2), {}, compiled=False) == []


@pytest.mark.parametrize("order", [(True, False), (False, True, False), (True, False, True)])
def test_tf32_is_one_setting_and_legacy_getters_stay_readable(order):
    for enabled in order:
        set_tf32(enabled)
        assert set(tf32_state().values()) == {"tf32" if enabled else "ieee"}
        assert torch.get_float32_matmul_precision() == ("high" if enabled else "highest")
        assert torch.backends.cuda.matmul.allow_tf32 is enabled
        assert torch.backends.cudnn.allow_tf32 is enabled
    set_tf32(False)
