"""Image sets held in memory: the bundled one is what its README says; torchvision's are read or refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

import mptrain.data
from mptrain.data.expected import expected_spec
from mptrain.data.images import in_memory
from mptrain.errors import DataError
from mptrain.interfaces import Batch, DataSplits, InMemory
from mptrain.registry import DATASETS

assert mptrain.data  # registers the entries


def build(name: str, **options: Any) -> DataSplits:
    return DATASETS.build(DATASETS.config_type(name).model_validate({"name": name, **options}), 0)


def test_bundled_fashion_mnist_is_balanced_and_normalised() -> None:
    splits = build("fashion_mnist_12k")
    train, test = splits.train, splits.test
    assert isinstance(train, InMemory)
    assert isinstance(test, InMemory)
    assert splits.spec.input_shape == (1, 28, 28)
    assert splits.spec.class_names[0] == "t-shirt/top"
    assert train.targets.bincount().tolist() == [1000] * 10
    assert test.targets.bincount().tolist() == [200] * 10
    pixels = train.transform(Batch(train.inputs, train.targets), None).inputs
    assert abs(float(pixels.mean())) < 0.01
    assert float(pixels.std()) == pytest.approx(1, abs=0.01)


def test_augmentation_is_of_the_training_split_only() -> None:
    splits = build("fashion_mnist_12k", augment={"flip": True, "crop_padding": 2})
    assert isinstance(splits.train, InMemory)
    assert isinstance(splits.test, InMemory)
    assert (splits.train.augments, splits.test.augments) == (True, False)
    assert isinstance(plain := build("fashion_mnist_12k").train, InMemory)
    assert plain.augments is False


@pytest.mark.parametrize(
    "bad", [{"mean": [0.1, 0.2]}, {"mean": [73.0]}, {"std": [0.0]}, {"augment": {"crop_padding": -1}}]
)
def test_bad_options_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        build("fashion_mnist_12k", **bad)


def write_idx(path: Path, array: np.ndarray[Any, Any]) -> None:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_mnist_files_are_read(tmp_path: Path, name: str, folder: str) -> None:
    raw = tmp_path / folder / "raw"
    raw.mkdir(parents=True)
    pixels = np.arange(20 * 28 * 28).reshape(20, 28, 28) % 256
    for prefix, count in (("train", 20), ("t10k", 10)):
        write_idx(raw / f"{prefix}-images-idx3-ubyte", pixels[:count])
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", np.arange(count) % 10)
    splits = build(name, root=str(tmp_path))
    assert isinstance(splits.train, InMemory)
    assert splits.train.inputs.shape == (20, 1, 28, 28)
    assert torch.equal(splits.train.inputs[:, 0], torch.from_numpy(pixels.astype(np.uint8)))
    assert splits.train.targets.tolist() == [i % 10 for i in range(20)]
    assert splits.spec.num_outputs == 10
    assert splits.identity == {"name": name, "train": 20, "test": 10}


def test_a_label_out_of_range_is_named(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix, labels in (("train", np.arange(20) % 10), ("t10k", np.arange(10) + (np.arange(10) == 7) * 40)):
        write_idx(raw / f"{prefix}-images-idx3-ubyte", np.zeros((len(labels), 28, 28)))
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", labels)
    with pytest.raises(DataError, match=r"test image 7 of mnist has label 47; labels are 0 to 9") as caught:
        build("mnist", root=str(tmp_path))
    assert "\n" not in str(caught.value)


class Cifar:
    """The two attributes of torchvision's CIFAR sets; their files are too well checked to be imitated."""

    data = np.arange(2 * 32 * 32 * 3, dtype=np.int64).reshape(2, 32, 32, 3).astype(np.uint8)
    targets = [3, 1]


def test_colour_images_become_channels_first() -> None:
    inputs, labels = in_memory._images(Cifar())
    assert inputs.shape == (2, 3, 32, 32)
    assert inputs[1, 2, 5, 7] == Cifar.data[1, 5, 7, 2]
    assert labels.tolist() == [3, 1]


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100"])
def test_missing_files_name_the_folder_and_the_remedy(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"data\.download=true") as caught:
        build(name, root=str(tmp_path / "nowhere"))
    assert "nowhere" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_download_that_fails_is_one_line_and_prints_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for scheme in ("http_proxy", "https_proxy"):  # an address that refuses at once stands for having no network
        monkeypatch.setenv(scheme, "http://127.0.0.1:9")
    with pytest.raises(DataError, match="check the network") as caught:
        build("cifar10", root=str(tmp_path), download=True)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""


def test_the_config_alone_tells_what_the_images_will_be() -> None:
    config = DATASETS.config_type("fashion_mnist_12k").model_validate({"name": "fashion_mnist_12k"})
    expected, found = expected_spec(config), build("fashion_mnist_12k").spec
    assert expected is not None
    assert (expected.input_shape, expected.num_outputs, expected.kind) == ((1, 28, 28), 10, found.kind)
    assert (found.input_shape, found.num_outputs) == ((1, 28, 28), 10)


@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [("cifar10", (3, 32, 32), 10), ("cifar100", (3, 32, 32), 100), ("imagenet", (3, 224, 224), 1000)],
)
def test_sets_of_a_fixed_kind_are_known_without_files(name: str, shape: tuple[int, ...], classes: int) -> None:
    options = {"root": "nowhere"}
    spec = expected_spec(DATASETS.config_type(name).model_validate({"name": name, **options}))
    assert spec is not None
    assert (spec.input_shape, spec.num_outputs) == (shape, classes)
    folder = DATASETS.config_type("image_folder").model_validate({"name": "image_folder", **options})
    assert expected_spec(folder) is None
