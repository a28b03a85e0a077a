"""Image folders: real files are decoded, transformed and split; what is missing or damaged is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import mptrain.data
from mptrain.data.loading import make_eval_loader, make_train_loader
from mptrain.errors import DataError
from mptrain.interfaces import Batch, DataSplits
from mptrain.registry import DATASETS

assert mptrain.data  # registers the entries

CPU = torch.device("cpu")
COLOURS = {"ants": (200, 10, 10), "bees": (10, 10, 200)}


def write(root: Path, *, test_name: str = "test", mode: str = "RGB") -> None:
    for split in ("train", test_name):
        for name, colour in COLOURS.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(3):
                Image.new("RGB", (40 + index, 30), colour).convert(mode).save(folder / f"{index}.png")


def config(root: Path, name: str = "image_folder", **options: Any) -> Any:
    return DATASETS.config_type(name).model_validate(
        {"name": name, "root": str(root), "image_size": 16, "batch_size": 2, **options}
    )


def build(root: Path, name: str = "image_folder") -> DataSplits:
    return DATASETS.build(config(root, name), 0)


@pytest.mark.parametrize(
    ("name", "test_name"), [("image_folder", "test"), ("image_folder", "val"), ("imagenet", "val")]
)
@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_folders_are_read(tmp_path: Path, name: str, test_name: str, mode: str) -> None:
    write(tmp_path, test_name=test_name, mode=mode)
    splits = build(tmp_path, name)
    assert splits.spec.class_names == ("ants", "bees")
    assert splits.spec.input_shape == (3, 16, 16)
    inputs, target = splits.test.dataset[5]  # type: ignore[union-attr]
    assert (inputs.shape, inputs.dtype, target) == ((3, 16, 16), torch.uint8, 1)
    last = list(make_eval_loader(splits.test, config(tmp_path), device=CPU))[-1]
    assert last.inputs.dtype is torch.float32
    if mode == "RGB":
        blue = (200 / 255 - 0.406) / 0.225
        assert float(last.inputs[1, 2].mean()) == pytest.approx(blue, abs=1e-3)
    train = make_train_loader(splits.train, config(tmp_path), seed=0, device=CPU)
    assert [batch.inputs.shape for batch in train.epoch(0)] == [(2, 3, 16, 16)] * 3
    assert len(list(make_eval_loader(splits.test, config(tmp_path), device=CPU))) == 3


@pytest.mark.parametrize("damage", [b"", b"no image", b"cut"])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_damaged_file_is_named(tmp_path: Path, damage: bytes, num_workers: int) -> None:
    write(tmp_path)
    bad = tmp_path / "train" / "bees" / "1.png"
    bad.write_bytes(bad.read_bytes()[:60] if damage == b"cut" else damage)
    loader = make_train_loader(build(tmp_path).train, config(tmp_path, num_workers=num_workers), seed=0, device=CPU)
    with pytest.raises(DataError, match=r"bees/1\.png cannot be decoded") as caught:
        list(loader.epoch(0))
    assert "\n" not in str(caught.value)


def test_missing_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no folder .*train"):
        build(tmp_path / "nowhere")
    write(tmp_path)
    (tmp_path / "test").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"no folder .*val"):
        build(tmp_path)


def test_a_folder_without_classes_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    for name in COLOURS:
        (tmp_path / "train" / name).rename(tmp_path / name)
    with pytest.raises(DataError, match="one folder of images per class") as caught:
        build(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_empty_class_is_named_or_left_out(tmp_path: Path, split: str) -> None:
    write(tmp_path)
    for file in (tmp_path / split / "ants").iterdir():
        file.rename(file.with_suffix(".txt"))
    with pytest.raises(DataError, match=rf"{split}/ants holds no images") as caught:
        build(tmp_path)
    assert "\n" not in str(caught.value)
    splits = DATASETS.build(config(tmp_path, on_error="skip"), 0)
    assert (splits.spec.class_names, splits.spec.num_outputs) == (("bees",), 1)
    assert (len(splits.train), len(splits.test)) == (3, 3)
    assert splits.test.dataset[0][1] == 0  # type: ignore[union-attr]
    assert len(splits.bad_files.reasons) == 1


def test_no_class_left_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    for file in [*(tmp_path / "train" / "ants").iterdir(), *(tmp_path / "test" / "bees").iterdir()]:
        file.unlink()
    with pytest.raises(DataError, match="no class has images in both"):
        DATASETS.build(config(tmp_path, on_error="skip"), 0)


def test_splits_of_different_classes_are_refused(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "test" / "bees").rename(tmp_path / "test" / "wasps")
    with pytest.raises(DataError, match=r"different classes \(bees, wasps\)"):
        build(tmp_path)


def test_damaged_imagenet_archives_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(b"junk")
    with pytest.raises(DataError, match="cannot be unpacked") as caught:
        build(tmp_path, "imagenet")
    assert "\n" not in str(caught.value)


STRONG = {"rand_augment": 2, "erase": 0.5, "mixup_alpha": 0.2, "cutmix_alpha": 1.0}


def test_augmented_batches_are_the_same_with_any_number_of_workers_and_after_a_resume(tmp_path: Path) -> None:
    write(tmp_path)
    options = config(tmp_path, augment=STRONG)
    splits = DATASETS.build(options, 0)

    def batches(num_workers: int, start: int = 0) -> list[Batch]:
        workers = options.model_copy(update={"num_workers": num_workers})
        return list(make_train_loader(splits.train, workers, seed=3, device=CPU).epoch(1, start))

    whole = batches(0)
    assert whole[0].targets.shape == (2, 2)
    for one, other in [*zip(whole, batches(1), strict=True), *zip(whole[1:], batches(0, 1), strict=True)]:
        assert torch.equal(one.inputs, other.inputs)
        assert torch.equal(one.targets, other.targets)
    again = make_train_loader(splits.train, options, seed=3, device=CPU).epoch(2)
    assert not torch.equal(whole[0].inputs, next(iter(again)).inputs)


def test_evaluation_is_not_augmented(tmp_path: Path) -> None:
    write(tmp_path)
    plain, strong = (DATASETS.build(config(tmp_path, augment=augment), 0).test for augment in ({}, STRONG))
    pairs = zip(*(make_eval_loader(split, config(tmp_path), device=CPU) for split in (plain, strong)), strict=True)
    for one, other in pairs:
        assert torch.equal(one.inputs, other.inputs)
        assert torch.equal(one.targets, other.targets)
