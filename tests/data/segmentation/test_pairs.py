"""Folders, VOC and Cityscapes: real files become crops and masks that belong together; what is wrong is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from mptrain.data.expected import expected_spec
from mptrain.data.loading import make_eval_loader, make_train_loader
from mptrain.errors import DataError
from mptrain.interfaces import Batch, Streamed
from tests.data.segmentation.files import HEIGHT, WIDTH, labels, make, write_folder, write_pair

CPU = torch.device("cpu")
CLASSES = ["none", "a", "b"]


def batches(config: Any, split: Streamed) -> list[Batch]:
    return list(make_train_loader(split, config, seed=0, device=CPU).epoch(0))


@pytest.mark.parametrize("test", ["val", "test"])
@pytest.mark.parametrize("mode", ["L", "P"])
def test_a_folder_is_read_and_its_images_are_evaluated_whole(tmp_path: Path, test: str, mode: str) -> None:
    write_folder(tmp_path, test=test, mode=mode)
    config, splits = make("segmentation_folder", tmp_path, classes=CLASSES, batch_size=2)
    assert splits.spec == expected_spec(config)
    assert (splits.spec.input_shape, splits.spec.num_outputs, splits.spec.kind) == ((3, 8, 12), 3, "segmentation")
    assert splits.spec.class_names == ("none", "a", "b")
    first, second = make_eval_loader(splits.test, config, device=CPU)
    assert (first.inputs.shape, first.inputs.dtype) == ((2, 3, 24, 32), torch.float32)
    assert (first.targets.shape, first.targets.dtype) == ((2, 24, 32), torch.int64)
    for target, label in zip(torch.cat([first.targets, second.targets]), (1, 2, 1, 2), strict=True):
        assert np.array_equal(target[:HEIGHT, :WIDTH].numpy(), labels(label))
        assert (target[HEIGHT:] == 255).all()
        assert (target[:, WIDTH:] == 255).all()
    assert float(first.inputs[1, 0, 5, 25]) == pytest.approx((20 / 255 - 0.485) / 0.229, abs=0.02)
    assert float(first.inputs[:, :, HEIGHT:].abs().max()) < 0.01  # padded with the mean


@pytest.mark.parametrize("num_workers", [0, 2])
def test_training_crops_keep_image_and_mask_together(tmp_path: Path, num_workers: int) -> None:
    write_folder(tmp_path)
    options = {"classes": CLASSES, "batch_size": 4, "scale": [0.5, 2.0], "num_workers": num_workers}
    config, splits = make("segmentation_folder", tmp_path, **options)
    loader = make_train_loader(splits.train, config, seed=0, device=CPU)
    crops = [batch for epoch in range(8) for batch in loader.epoch(epoch)]
    red = torch.cat([batch.inputs for batch in crops])[:, 0] * 0.229 + 0.485
    targets = torch.cat([batch.targets for batch in crops])
    assert red.shape == targets.shape == (32, 8, 12)
    assert set(targets.unique().tolist()) == {0, 1, 2, 255}
    for label in (0, 1, 2):
        inside = torch.stack([(targets == label).roll(step, 2) for step in (-2, -1, 0, 1, 2)]).all(0)
        assert inside.sum() > 50
        assert float((red[inside] * 255 - 10 * label).abs().max()) < 3
    sides = {bool((target == 0)[:, :6].sum() < (target == 0)[:, 6:].sum()) for target in targets}
    assert sides == {True, False}  # some are mirrored
    again = [batch for epoch in range(8) for batch in loader.epoch(epoch)]
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(crops, again, strict=True))
    assert not torch.equal(crops[0].inputs, crops[1].inputs)


def test_a_scaled_crop_shows_less_or_more_of_the_image(tmp_path: Path) -> None:
    write_folder(tmp_path, count=2)
    sizes = {}
    for scale in (0.5, 4.0):
        config, splits = make(
            "segmentation_folder", tmp_path, classes=CLASSES, batch_size=2, scale=[scale, scale], image_size=[20, 30]
        )
        sizes[scale] = torch.cat([batch.targets for batch in batches(config, splits.train)])
    assert int((sizes[0.5] == 255).sum(dim=(1, 2)).min()) > 20 * 30 * 0.7  # a quarter of the crop is the image
    # Magnified, the ignored column is four wide, and the crop ends where the image still goes on.
    assert int((sizes[4.0] == 255).sum(dim=(1, 2)).max()) <= 20 * 4


def test_a_larger_image_is_scaled_down_to_fit(tmp_path: Path) -> None:
    write_folder(tmp_path, count=1)
    _, splits = make("segmentation_folder", tmp_path, classes=CLASSES, eval_size=[10, 10])
    assert isinstance(splits.test, Streamed)
    image, mask = splits.test.dataset[0]
    assert (image.shape, mask.shape) == ((3, 10, 10), (10, 10))
    assert (mask[7:] == 255).all()  # 20x30 became 7x10
    assert mask[:7, 0].tolist() == [0] * 7
    assert mask[:7, 9].tolist() == [1] * 7


def test_one_bit_masks_are_read(tmp_path: Path) -> None:
    write_folder(tmp_path, count=1)
    Image.fromarray(np.eye(HEIGHT, WIDTH) > 0).save(tmp_path / "val" / "masks" / "0.png")
    _, splits = make("segmentation_folder", tmp_path, classes=["no", "yes"])
    assert isinstance(splits.test, Streamed)
    _, mask = splits.test.dataset[0]
    assert (int((mask == 1).sum()), int((mask == 0).sum())) == (HEIGHT, HEIGHT * (WIDTH - 1))


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def resize(path: Path) -> None:
    Image.new("L", (WIDTH, HEIGHT - 1)).save(path)


def relabel(path: Path) -> None:
    Image.new("L", (WIDTH, HEIGHT), 3).save(path)


def recolour(path: Path) -> None:
    Image.new("RGB", (WIDTH, HEIGHT)).save(path)


@pytest.mark.parametrize(
    ("damage", "file", "says"),
    [
        (truncate, "images/1.jpg", r"images/1\.jpg cannot be decoded"),
        (truncate, "masks/1.png", r"masks/1\.png cannot be decoded"),
        (resize, "masks/1.png", r"masks/1\.png is 30x19 pixels, its image 1\.jpg 30x20"),
        (relabel, "masks/1.png", r"masks/1\.png holds the label 3; labels must be 0 to 2, or 255"),
        (recolour, "masks/1.png", r"masks/1\.png has mode RGB; a mask must hold one class index per pixel"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, damage: Callable[[Path], None], file: str, says: str) -> None:
    write_folder(tmp_path)
    damage(tmp_path / "train" / file)
    config, splits = make("segmentation_folder", tmp_path, classes=CLASSES, batch_size=2)
    with pytest.raises(DataError, match=says) as caught:
        batches(config, splits.train)
    assert "\n" not in str(caught.value)


def test_a_bad_file_is_left_out_where_that_is_asked_for(tmp_path: Path) -> None:
    write_folder(tmp_path)
    resize(tmp_path / "val" / "masks" / "1.png")
    config, splits = make("segmentation_folder", tmp_path, classes=CLASSES, batch_size=2, on_error="skip")
    loader = make_eval_loader(splits.test, config, device=CPU, bad_files=splits.bad_files)
    assert sum(batch.size for batch in loader) == 3
    assert len(splits.bad_files.reasons) == 1


def test_a_missing_mask_is_named_or_left_out_and_counted(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "train" / "masks" / "2.png").unlink()
    with pytest.raises(DataError, match=r"train/masks/2\.png is missing"):
        make("segmentation_folder", tmp_path, classes=CLASSES)
    _, splits = make("segmentation_folder", tmp_path, classes=CLASSES, on_error="skip")
    assert (len(splits.train), len(splits.test)) == (3, 4)
    assert [line.split(" is missing")[0][-17:] for line in splits.bad_files.reasons] == ["train/masks/2.png"]


def test_what_is_there_makes_the_identity(tmp_path: Path) -> None:
    write_folder(tmp_path)
    before = make("segmentation_folder", tmp_path, classes=CLASSES)[1].identity
    assert (before["name"], before["train"], before["test"]) == ("segmentation_folder", 4, 4)
    write_pair(tmp_path / "val/images/x.jpg", tmp_path / "val/masks/x.png", 1)
    assert make("segmentation_folder", tmp_path, classes=CLASSES)[1].identity["names_sha256"] != before["names_sha256"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("segmentation_folder", r"no folder .*train/images; give a folder with train/images, train/masks"),
        ("voc", r"the list .*ImageSets/Segmentation/train\.txt cannot be read"),
        ("cityscapes", r"there are no .*leftImg8bit/train/<city>/\*_leftImg8bit\.png"),
    ],
)
def test_missing_folders_are_named(tmp_path: Path, name: str, says: str) -> None:
    options = {"classes": CLASSES} if name == "segmentation_folder" else {}
    with pytest.raises(DataError, match=says) as caught:
        make(name, tmp_path, **options)
    assert "\n" not in str(caught.value)


def test_a_folder_without_images_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path)
    for path in (tmp_path / "val" / "images").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"val/images holds no images"):
        make("segmentation_folder", tmp_path, classes=CLASSES)


def write_voc(root: Path) -> None:
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for name, label in (("2007_1", 1), ("2007_2", 20), ("2008_3", 15)):
        write_pair(root / "JPEGImages" / f"{name}.jpg", root / "SegmentationClass" / f"{name}.png", label, "P")
    write_pair(root / "JPEGImages" / "sbd.jpg", root / "SegmentationClassAug" / "sbd.png", 7)
    (lists / "train.txt").write_text("2007_1\n2007_2\n")
    (lists / "val.txt").write_text("2008_3\n\n")
    (lists / "aug.txt").write_text("/JPEGImages/sbd.jpg /SegmentationClassAug/sbd.png\n")


def test_voc_is_read(tmp_path: Path) -> None:
    write_voc(tmp_path)
    config, splits = make("voc", tmp_path, batch_size=1)
    assert splits.spec == expected_spec(config)
    assert (splits.spec.num_outputs, splits.spec.class_names[15]) == (21, "person")
    assert (len(splits.train), len(splits.test)) == (2, 1)
    (batch,) = make_eval_loader(splits.test, config, device=CPU)
    assert np.array_equal(batch.targets[0, :HEIGHT, :WIDTH].numpy(), labels(15))


@pytest.mark.parametrize("lines", [None, "sbd\n"])
def test_lists_of_sbd_are_read_in_both_their_forms(tmp_path: Path, lines: str | None) -> None:
    write_voc(tmp_path)
    file = "ImageSets/Segmentation/aug.txt"
    if lines:
        (tmp_path / file).write_text(lines)
    folder = {"mask_folder": "SegmentationClassAug"} if lines else {}
    _, splits = make("voc", tmp_path, train_list=file, test_list=file, **folder)
    assert isinstance(splits.test, Streamed)
    assert np.array_equal(splits.test.dataset[0][1][:HEIGHT, :WIDTH].numpy(), labels(7))


@pytest.mark.parametrize(
    ("text", "says"), [("a b c\n", "line 1 has 3 words"), ("\n", "is empty"), ("x", "x.jpg is mi")]
)
def test_a_bad_list_is_named(tmp_path: Path, text: str, says: str) -> None:
    write_voc(tmp_path)
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text(text)
    with pytest.raises(DataError, match=says):
        make("voc", tmp_path)


def test_cityscapes_label_ids_become_train_ids(tmp_path: Path) -> None:
    for split in ("train", "val"):
        stem = f"{split}/bonn/bonn_000000_000019"
        image, mask = (tmp_path / f"{kind}/{stem}" for kind in ("leftImg8bit", "gtFine"))
        write_pair(Path(f"{image}_leftImg8bit.png"), Path(f"{mask}_gtFine_labelIds.png"), 26)
    config, splits = make("cityscapes", tmp_path)
    assert splits.spec == expected_spec(config)
    assert splits.spec.class_names[:3] == ("road", "sidewalk", "building")
    assert isinstance(splits.test, Streamed)
    mask = splits.test.dataset[0][1][:HEIGHT, :WIDTH]
    assert set(mask[:, : WIDTH // 2 + 1].unique().tolist()) == {255}  # id 0 is unlabelled
    assert set(mask[:, WIDTH // 2 + 1 :].unique().tolist()) == {splits.spec.class_names.index("car")}
    (tmp_path / "gtFine/val/bonn/bonn_000000_000019_gtFine_labelIds.png").unlink()
    with pytest.raises(DataError, match=r"bonn_000000_000019_gtFine_labelIds\.png is missing"):
        make("cityscapes", tmp_path)


@pytest.mark.parametrize("options", [{"scale": [2.0, 0.5]}, {"classes": ["one"]}, {"image_size": [0, 4]}])
def test_bad_options_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    write_folder(tmp_path)
    with pytest.raises(ValidationError):
        make("segmentation_folder", tmp_path, **{"classes": CLASSES, **options})
