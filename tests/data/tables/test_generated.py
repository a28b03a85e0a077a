"""Generated data: seeded, shaped as asked, and learnable."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import mptrain.data
from mptrain.data.expected import expected_spec
from mptrain.errors import OutOfMemoryError
from mptrain.interfaces import DataSplits, InMemory
from mptrain.registry import DATASETS

assert mptrain.data  # registers the entries


def build(name: str, *, run_seed: int = 0, **options: Any) -> DataSplits:
    return DATASETS.build(DATASETS.config_type(name).model_validate({"name": name, **options}), run_seed)


def parts(splits: DataSplits) -> tuple[InMemory, InMemory]:
    assert isinstance(splits.train, InMemory)
    assert isinstance(splits.test, InMemory)
    return splits.train, splits.test


@pytest.mark.parametrize("name", ["synthetic", "line", "friedman1"])
def test_the_data_depend_on_their_own_seed_only(name: str) -> None:
    one, again, other = (parts(build(name, run_seed=r, seed=s))[0] for r, s in ((0, 1), (9, 1), (0, 2)))
    assert torch.equal(one.inputs, again.inputs)
    assert torch.equal(one.targets, again.targets)
    assert not torch.equal(one.inputs, other.inputs)


def test_the_identity_is_what_the_data_are_made_from() -> None:
    assert build("line", batch_size=16).identity == build("line", batch_size=32).identity
    assert build("line", seed=1).identity != build("line", seed=2).identity


def test_synthetic_classes_can_be_told_apart() -> None:
    splits = build("synthetic", input_shape=[3, 5, 5], num_outputs=7, num_train=300, num_test=100)
    train, test = parts(splits)
    assert (splits.spec.input_shape, splits.spec.num_outputs) == ((3, 5, 5), 7)
    assert train.inputs.shape == (300, 3, 5, 5)
    assert train.inputs.dtype is torch.float32
    assert float(train.inputs.std()) == pytest.approx(1, abs=0.05)
    centres = torch.stack([train.inputs[train.targets == c].flatten(1).mean(0) for c in range(7)])
    nearest = torch.cdist(test.inputs.flatten(1), centres).argmin(1)
    assert float((nearest == test.targets).float().mean()) > 0.95


def test_synthetic_regression_follows_a_linear_teacher() -> None:
    splits = build("synthetic", kind="regression", input_shape=[6], num_outputs=2, noise=0.1, num_train=500)
    train, test = parts(splits)
    assert splits.spec.kind == "regression"
    solution = torch.linalg.lstsq(train.inputs, train.targets).solution
    assert float((test.inputs @ solution - test.targets).std()) == pytest.approx(0.1, abs=0.03)


def test_line_is_the_line() -> None:
    train, test = parts(build("line", w=[2, -1], b=0.5, noise=0))
    for split in (train, test):
        wanted = split.inputs @ torch.tensor([[2.0], [-1.0]]) + 0.5
        torch.testing.assert_close(split.targets, wanted)
    noisy, _ = parts(build("line", w=[2.0], b=0.5, noise=0.3))
    assert float((noisy.targets - 2 * noisy.inputs - 0.5).std()) == pytest.approx(0.3, abs=0.03)


def test_friedman1_is_friedmans_formula() -> None:
    splits = build("friedman1", noise=0, num_features=7)
    train, _ = parts(splits)
    assert (splits.spec.kind, splits.spec.input_shape, train.targets.shape) == ("regression", (7,), (1024, 1))
    x = train.inputs.double()
    wanted = 10 * (torch.pi * x[:, 0] * x[:, 1]).sin() + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
    torch.testing.assert_close(train.targets[:, 0].double(), wanted, rtol=1e-5, atol=1e-5)
    assert float(train.targets.std()) == pytest.approx(4.9, abs=0.3)
    noisy, _ = parts(build("friedman1", noise=2.0, num_features=7))
    assert float((noisy.inputs - train.inputs).abs().max()) == 0
    assert float((noisy.targets - train.targets).std()) == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize("name", ["synthetic", "line", "friedman1"])
def test_the_config_alone_tells_what_the_data_will_be(name: str) -> None:
    config = DATASETS.config_type(name).model_validate({"name": name, "num_train": 20, "num_test": 20})
    assert expected_spec(config) == DATASETS.build(config, 0).spec


def test_more_than_memory_holds_is_one_line() -> None:
    with pytest.raises(OutOfMemoryError, match=r"lower num_train or input_shape") as caught:
        build("synthetic", num_train=10**13)
    assert "\n" not in str(caught.value)
