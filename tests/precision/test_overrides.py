"""Rules of precision.overrides: what they match, and that contradictions and misses are named."""

import pytest
from torch import nn

from mptrain.config.precision import OverrideConfig
from mptrain.errors import ConfigError
from mptrain.precision.overrides import match_modules, resolve_overrides


def _model() -> nn.Module:
    block = lambda: nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))  # noqa: E731
    return nn.ModuleDict({"blocks": nn.Sequential(*(block() for _ in range(6))), "head": nn.Linear(4, 2)})


def _rules(*rules: tuple[str, str] | tuple[str, str, str]) -> list[OverrideConfig]:
    return [OverrideConfig(match=r[0], dtype=r[1], role=r[2] if len(r) > 2 else None) for r in rules]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("head", ["head"]),
        ("blocks.1.*", ["blocks.1.0", "blocks.1.1"]),
        (r"re:^blocks\.[0-1]\.0", ["blocks.0.0", "blocks.1.0"]),
        ("type:LayerNorm", [f"blocks.{i}.1" for i in range(6)]),
    ],
)
def test_patterns_match_names_expressions_and_classes(pattern, expected):
    assert list(match_modules(_model(), pattern, key="k")) == expected


def test_a_base_class_matches_too():
    assert list(match_modules(nn.Sequential(nn.BatchNorm1d(2), nn.ReLU()), "type:_BatchNorm", key="k")) == ["0"]


def test_a_rule_for_a_container_answers_for_what_is_inside():
    answers = resolve_overrides(_model(), _rules(("blocks.2", "fp32")))
    assert set(answers) == {"blocks.2", "blocks.2.0", "blocks.2.1"}
    assert {answer.dtype for answer in answers.values()} == {"fp32"}


@pytest.mark.parametrize(
    "second", [("type:LayerNorm", "bf16"), ("blocks.2.1", "fp16"), ("blocks.2.1", "e5m2", "weight")]
)
@pytest.mark.parametrize("turned", [False, True])
def test_two_answers_name_both_rules_in_either_order(second, turned):
    pair = [("blocks.2", "fp32"), second]
    with pytest.raises(ConfigError) as caught:
        resolve_overrides(_model(), _rules(*(reversed(pair) if turned else pair)))
    text = str(caught.value)
    assert "rule 1" in text
    assert "rule 2" in text
    assert "'blocks.2'" in text
    assert repr(second[0]) in text
    assert "blocks.2.1" in text


def test_two_rules_of_one_mind_are_no_contradiction():
    answers = resolve_overrides(_model(), _rules(("blocks.*", "fp32"), ("type:LayerNorm", "fp32")))
    assert answers["blocks.0.1"].dtype == "fp32"


def test_rules_for_different_operands_add_up():
    answer = resolve_overrides(_model(), _rules(("head", "e4m3", "weight"), ("head", "e5m2", "grad_output")))["head"]
    assert answer.dtype is None
    assert answer.roles == {"weight": "e4m3", "grad_output": "e5m2"}
    assert "rule 1" in answer.rule
    assert "rule 2" in answer.rule


def test_every_rule_without_a_match_is_named_at_once_with_a_suggestion():
    with pytest.raises(ConfigError) as caught:
        resolve_overrides(_model(), _rules(("haed", "fp32"), ("type:LayrNorm", "fp32"), ("re:(", "fp32")))
    lines = caught.value.problems
    assert len(lines) == 3
    assert "overrides[0]" in lines[0]
    assert "did you mean 'head'?" in lines[0]
    assert "did you mean 'type:LayerNorm'?" in lines[1]
    assert "not a regular expression" in lines[2]
