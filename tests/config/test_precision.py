"""The `precision` section: names from elsewhere, formats, and rules between its keys."""

import re

import pytest
from pydantic import ValidationError

from mptrain.config.migration import KEYS, MODE_NAMES
from mptrain.config.precision import PRECISION_MODES, LossScaleConfig, OverrideConfig, PrecisionConfig
from mptrain.errors import ConfigError
from tests.trainer.runs import config


def _error(**keys) -> str:
    with pytest.raises(ValidationError) as caught:
        PrecisionConfig(**keys)
    return str(caught.value)


@pytest.mark.parametrize("name", MODE_NAMES)
def test_other_trainers_names_are_answered_with_ours(name):
    owner, mode = MODE_NAMES[name]
    assert mode in PRECISION_MODES
    assert name not in PRECISION_MODES
    for written in (name, int(name)) if name.isdigit() else (name,):
        with pytest.raises(ConfigError) as caught:
            config({"precision": {"mode": written}})
        text = str(caught.value)
        assert owner in text
        assert f"precision: {mode}" in text


@pytest.mark.parametrize(
    ("section", "key"),
    [(s, key) for s in ("", "train", "precision") for key in KEYS if (s, key) != ("precision", "fp8")],
)
def test_other_trainers_keys_are_answered_with_ours(section, key):
    owner, instead = KEYS[key]
    with pytest.raises(ConfigError) as caught:
        config({section: {key: True}} if section else {key: True})
    assert owner in str(caught.value)
    assert instead in str(caught.value)


@pytest.mark.parametrize("mode", [*PRECISION_MODES, "e4m3", "e5m2", "e3m4", "e8m23", "e2m1"])
def test_modes_are_names_or_free_formats(mode):
    assert PrecisionConfig(mode=mode, backend="emulated").mode == mode


@pytest.mark.parametrize("mode", ["e9m1", "e0m3", "e4m24", "e1m0", "E4M3", "m3e4", "fp61", "e4m3 "])
def test_other_texts_are_no_modes(mode):
    assert "is not one of" in _error(mode=mode)


@pytest.mark.parametrize(("typed", "meant"), [("FP16", "fp16"), ("BF16-Pure", "bf16-pure"), ("fp166", "fp16")])
def test_a_mode_in_capitals_or_nearly_right_is_recognised(typed, meant):
    assert f"did you mean '{meant}'?" in _error(mode=typed)


def test_overrides_take_formats_and_operand_modes_only():
    for dtype in ("fp32", "tf32", "e3m2", "fp8", "nvfp4"):
        assert OverrideConfig(match="x", dtype=dtype).dtype == dtype
    for dtype in ("fp16-pure", "auto", "int8"):
        with pytest.raises(ValidationError, match="is not a number format"):
            OverrideConfig(match="x", dtype=dtype)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"mode": "bf16", "rounding": "kahan"}, "needs mode fp16-pure or bf16-pure"),
        ({"mode": "fp8", "formats": {"forward": "e4m3"}}, "set backend to emulated"),
        ({"mode": "bf16", "fp8": {"recipe": "rowwise"}}, "needs mode fp8"),
        ({"mode": "fp64", "backend": "emulated", "formats": {"forward": "e4m3"}}, "fp64 is wider"),
        ({"mode": "bf16", "backend": "emulated", "formats": {"grad_input": "fp64"}}, "fp64 is wider"),
        ({"mode": "bf16", "backend": "emulated", "formats": {"block_size": 16}}, "nothing here is scaled, bf16"),
        (
            {"mode": "fp16", "backend": "emulated", "formats": {"forward": "bf16", "scaling": "row"}},
            "nothing .* scaled",
        ),
        (
            {"mode": "fp8", "backend": "emulated", "formats": {"scaling": "row", "block_size": 16}},
            "block_size needs scaling block, not row",
        ),
        (
            {
                "mode": "fp8",
                "backend": "emulated",
                "fp8": {"recipe": "rowwise_with_gw_hp"},
                "formats": {"grad_weight": "e5m2"},
            },
            "rounds no operand of that product",
        ),
        ({"mode": "bf16", "phases": [{"until": 1.0, "mode": "fp32"}]}, "give mode .* or phases"),
        ({"phases": [{"until": 0.5, "mode": "fp32"}]}, "until 1.0"),
        ({"phases": [{"until": 0.5, "mode": "fp32"}, {"until": 0.5, "mode": "bf16"}]}, "one after the other"),
        ({"phases": [{"until": 1.0, "mode": "bf16", "rounding": "kahan"}]}, "needs a -pure mode"),
        ({"loss_scale": {"kind": "static", "on_skip": "retry"}}, "needs a scale that can move"),
        ({"loss_scale": {"groups": [{"match": "a", "init_scale": 0.5}]}}, "must lie between"),
        ({"loss_scale": {"kind": "none", "groups": [{"match": "a"}]}}, "groups need a loss scale"),
    ],
)
def test_keys_that_contradict_one_another_are_refused(keys, said):
    assert re.search(said, _error(**keys))


@pytest.mark.parametrize(
    "keys",
    [
        {"mode": "bf16", "formats": {"forward": "e4m3", "scaling": "block", "block_size": 5}},
        {"mode": "fp8", "formats": {"block_size": 16}},
        {"mode": "e3m4", "formats": {"scaling": "none"}},
        {"mode": "fp16", "formats": {"grad_weight": "bf16"}},
    ],
)
def test_formats_of_products_are_taken_in_every_mode(keys):
    assert PrecisionConfig(backend="emulated", **keys).formats


def test_emulated_arithmetic_is_not_compiled():
    with pytest.raises(ConfigError, match="cannot compile emulated"):
        config({"train": {"compile": True}, "precision": {"mode": "bf16", "backend": "emulated"}})


def test_a_group_starts_at_the_sections_scale_unless_it_has_its_own():
    groups = LossScaleConfig(groups=[{"match": "a"}, {"match": "b", "init_scale": 8.0}]).groups
    assert [group.init_scale for group in groups] == [None, 8.0]
