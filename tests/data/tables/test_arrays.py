"""Your own arrays: what can be trained on is read as it is; everything else is one line."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mptrain.data
from mptrain.errors import DataError
from mptrain.interfaces import Batch, DataSplits, InMemory
from mptrain.registry import DATASETS

assert mptrain.data  # registers the entries

RNG = np.random.default_rng(0)
GOOD: dict[str, Any] = {
    "train_inputs": RNG.normal(size=(12, 3)).astype(np.float32),
    "train_targets": np.arange(12) % 3,
    "test_inputs": RNG.normal(size=(6, 3)).astype(np.float32),
    "test_targets": np.arange(6) % 3,
}


def build(path: Path) -> DataSplits:
    return DATASETS.build(DATASETS.config_type("arrays").model_validate({"name": "arrays", "path": str(path)}), 0)


def saved(tmp_path: Path, **changes: Any) -> Path:
    path = tmp_path / "mine.npz"
    np.savez(path, **{key: value for key, value in {**GOOD, **changes}.items() if value is not None})
    return path


def test_classification(tmp_path: Path) -> None:
    path = saved(tmp_path, train_targets=(np.arange(12) % 3).astype(np.uint8))
    splits = build(path)
    train = splits.train
    assert isinstance(train, InMemory)
    assert (splits.spec.kind, splits.spec.num_outputs, splits.spec.input_shape) == ("classification", 3, (3,))
    assert torch.equal(
        train.transform(Batch(train.inputs, train.targets), None).inputs, torch.from_numpy(GOOD["train_inputs"])
    )
    assert train.targets.dtype is torch.int64
    assert splits.identity["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("shape", [(12,), (12, 1), (12, 2)])
def test_regression(tmp_path: Path, shape: tuple[int, ...]) -> None:
    targets = RNG.normal(size=shape)
    splits = build(saved(tmp_path, train_targets=targets, test_targets=targets[:6]))
    assert isinstance(splits.train, InMemory)
    assert (splits.spec.kind, splits.spec.num_outputs) == ("regression", 1 if len(shape) == 1 else shape[1])
    assert splits.train.targets.shape == (12, splits.spec.num_outputs)
    assert splits.train.targets.dtype is torch.float32


def test_bytes_are_scaled_to_one(tmp_path: Path) -> None:
    images = RNG.integers(0, 256, (12, 1, 4, 4), dtype=np.uint8)
    splits = build(saved(tmp_path, train_inputs=images, test_inputs=images[:6]))
    assert isinstance(splits.train, InMemory)
    seen = splits.train.transform(Batch(splits.train.inputs, splits.train.targets), None).inputs
    torch.testing.assert_close(seen, torch.from_numpy(images).float() / 255)


def test_fortran_order_and_compression_are_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    np.savez_compressed(path, **{**GOOD, "train_inputs": np.asfortranarray(GOOD["train_inputs"])})
    splits = build(path)
    assert isinstance(splits.train, InMemory)
    assert torch.equal(splits.train.inputs, torch.from_numpy(GOOD["train_inputs"]))


NAN = GOOD["train_inputs"].copy()
NAN[3, 1] = np.nan
HUGE = np.ones((12, 3))
HUGE[3, 1] = 1e39


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"test_targets": None}, "lacks test_targets"),
        ({"train_inputs": NAN}, "train_inputs hold 1 values that are NaN or infinite"),
        ({"train_inputs": HUGE, "test_inputs": HUGE}, "train_inputs hold 1 values that are NaN or infinite in FP32"),
        ({"train_targets": HUGE, "test_targets": HUGE[:6]}, "train_targets hold 1 values that are NaN or infinite"),
        ({"train_inputs": np.zeros((0, 3), np.float32)}, "at least one sample"),
        ({"train_inputs": np.zeros(12, np.float32)}, r"shape \(12,\)"),
        ({"train_inputs": np.zeros((12, 3), np.int32)}, "int32; save them as uint8 or float32"),
        ({"test_inputs": np.zeros((6, 4), np.float32)}, r"sample shape \(4,\), train_inputs \(3,\)"),
        ({"test_inputs": np.zeros((6, 3), np.uint8)}, "uint8, train_inputs float32"),
        ({"train_targets": np.arange(11) % 3}, "12 train_inputs but train_targets of shape"),
        ({"train_targets": np.int64(3)}, "one target per input"),
        ({"train_targets": np.arange(12) % 3 * 2}, "1 is missing in train_targets"),
        ({"train_targets": np.arange(12) % 3 - 1}, "the smallest is -1"),
        ({"train_targets": np.arange(12) % 3 + 1}, "0 is missing"),
        ({"test_targets": np.arange(6)}, "3 is missing in train_targets"),
        ({"test_targets": np.arange(6) / 3}, "train_targets are for classification, test_targets for regression"),
        ({"train_targets": np.arange(12).reshape(12, 1) % 3}, r"class labels have shape \(N,\)"),
        ({"train_targets": np.array(["a"] * 12)}, "<U1; save class labels as integers"),
        ({"train_targets": np.full(12, np.inf), "test_targets": np.zeros(6)}, "NaN or infinite"),
        ({"train_targets": np.zeros((12, 2)), "test_targets": np.zeros(6)}, "make their widths equal"),
        ({"train_targets": np.array([{}] * 12, dtype=object)}, "cannot be read as .npz arrays"),
    ],
)
def test_what_cannot_be_trained_on_is_one_line(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        build(saved(tmp_path, **changes))
    assert "\n" not in str(caught.value)
    assert "mine.npz" in str(caught.value)


def test_files_that_are_no_arrays_are_one_line(tmp_path: Path) -> None:
    cut = saved(tmp_path).read_bytes()[:-200]
    flipped = bytearray(saved(tmp_path).read_bytes())
    flipped[200:260] = bytes(60)
    cases = {"junk": b"\x93junk" * 50, "empty": b"", "cut": cut, "flipped": bytes(flipped)}
    for name, content in cases.items():
        path = tmp_path / f"{name}.npz"
        path.write_bytes(content)
        with pytest.raises(DataError, match=f"{name}.npz") as caught:
            build(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="there is no file"):
        build(tmp_path / "absent.npz")


def test_a_header_that_claims_more_than_the_file_holds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "liar.npz"
    with zipfile.ZipFile(saved(tmp_path)) as good, zipfile.ZipFile(path, "w") as bad:
        for item in good.namelist():
            content = good.read(item)
            bad.writestr(
                item, content.replace(b"(12, 3), }   ", b"(9999999, 3)}") if "train_inputs" in item else content
            )
    with pytest.raises(DataError, match=r"liar\.npz cannot be read"):
        build(path)


def test_a_header_that_is_no_python_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "odd.npz"
    with zipfile.ZipFile(saved(tmp_path)) as good, zipfile.ZipFile(path, "w") as bad:
        for item in good.namelist():
            bad.writestr(item, good.read(item).replace(b"}", b"("))
    with pytest.raises(DataError, match=r"odd\.npz cannot be read"):
        build(path)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A small limit stands for a large file.
    monkeypatch.setattr("mptrain.data.tables.arrays.MAX_UNPACKED_BYTES", 10_000)
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, **{**GOOD, "train_inputs": np.zeros((12, 300_000), np.float32)})
    with pytest.raises(DataError, match="20 times its size"):
        build(path)
