"""COCO's json: what is read and how it is resized, what is refused and what is left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from mptrain.data.expected import expected_spec
from mptrain.data.loading import make_eval_loader, make_train_loader
from mptrain.errors import DataError
from tests.data.detection.files import build, coco_annotations, config, write_coco, write_image

CPU = torch.device("cpu")


def test_categories_are_numbered_in_the_order_of_their_ids(tmp_path: Path) -> None:
    write_coco(tmp_path)
    splits = build("coco", tmp_path)
    assert splits.spec.class_names == ("train", "toothbrush")
    assert (splits.spec.kind, splits.spec.input_shape) == ("detection", (3, 64, 64))
    assert {key: splits.identity[key] for key in ("train", "test", "classes")} == {"train": 2, "test": 3, "classes": 2}
    assert len(build("coco", tmp_path, train_without_boxes=True).train) == 3


def test_boxes_follow_the_resized_image_and_crowds_are_only_for_evaluation(tmp_path: Path) -> None:
    write_coco(tmp_path)
    splits = build("coco", tmp_path)
    image, (objects, frame) = splits.test.dataset[0]  # type: ignore[union-attr]
    assert (image.shape, image.dtype, frame.tolist()) == ((3, 20, 30), torch.uint8, [20.0, 30.0, 40.0, 60.0])
    assert objects.tolist() == [[0, 5, 2.5, 15, 17.5, 0], [1, 0, 0, 30, 20, 1], [1, 15, 5, 19, 9, 0]]
    _, (objects, _) = splits.test.dataset[2]  # type: ignore[union-attr]
    assert objects.tolist() == [[-1] * 6] * 3
    for _ in range(8):  # mirrored or not
        image, (objects, _) = splits.train.dataset[0]  # type: ignore[union-attr]
        mirrored = bool(image[2, 10, 25] > 100)
        assert objects[0].tolist() == ([0, 15, 2.5, 25, 17.5, 0] if mirrored else [0, 5, 2.5, 15, 17.5, 0])
        assert objects.shape == (2, 6)


def test_training_images_are_mirrored_half_the_time(tmp_path: Path) -> None:
    write_coco(tmp_path)
    train = build("coco", tmp_path).train
    loader = make_train_loader(train, config("coco", tmp_path), seed=0, device=CPU)
    mirrored = [bool(image[2, 10, 2] < 0) for epoch in range(10) for b in loader.epoch(epoch) for image in b.inputs]
    assert 4 <= sum(mirrored) <= 16


def test_a_batch_is_padded_with_the_mean_to_its_largest_image(tmp_path: Path) -> None:
    content = coco_annotations()
    content["images"][1] |= {"width": 20, "height": 50}
    write_coco(tmp_path, content)
    write_image(tmp_path / "train2017" / "2.png", (20, 50))
    splits = build("coco", tmp_path)
    options = config("coco", tmp_path)
    loader = make_train_loader(splits.train, options, seed=0, device=CPU)
    (batch,) = loader.epoch(0)
    objects, frames = batch.targets
    assert sorted(frames.tolist()) == [[20, 30, 40, 60], [50, 20, 50, 20]]
    assert batch.inputs.shape == (2, 3, 64, 32)
    wide = frames[:, 0].tolist().index(20)
    assert batch.inputs[wide, :, 20:].abs().max() < 0.01
    assert batch.inputs[wide, :, :20, :30].abs().min() > 0.1
    assert objects.shape == (2, 2, 6)
    (batch,) = list(make_eval_loader(splits.test, config("coco", tmp_path, batch_size=3), device=CPU))
    assert batch.inputs.shape == (3, 3, 32, 32)


def test_the_expected_spec_is_the_real_one(tmp_path: Path) -> None:
    write_coco(tmp_path)
    expected, real = expected_spec(config("coco", tmp_path)), build("coco", tmp_path).spec
    assert expected is not None
    assert (expected.input_shape, expected.kind, expected.num_outputs) == (real.input_shape, real.kind, 80)


def changed(what: str, value: Any) -> dict[str, Any]:
    content = coco_annotations()
    content["annotations"][0][what] = value
    return content


BAD_RECORDS = {
    "outside": (changed("bbox", [50, 5, 20, 30]), r"annotation 10 of 1\.png: the box .* leaves its image of 60x40"),
    "no area": (changed("bbox", [10, 5, 0, 30]), r"annotation 10 of 1\.png: the box .* has no area"),
    "not finite": (changed("bbox", [10, 5, float("nan"), 30]), r"annotation 10 of 1\.png: .* must be 4 finite numbers"),
    "no box": (changed("bbox", [10, 5]), r"annotation 10: bbox must be \[x, y, width, height\], not \[10, 5\]"),
    "category": (changed("category_id", 91), r"annotation 10: category_id 91 is not among the categories"),
    "category list": (changed("category_id", [7]), r"annotation 10: category_id \[7\] is not among the categories"),
    "huge box": (
        changed("bbox", [10**400, 5, 20, 30]),
        r"annotation 10: bbox must be \[x, y, width, height\], not \[1",
    ),
    "image": (changed("image_id", 77), r"annotation 10: image_id 77 is not among the images"),
}


@pytest.mark.parametrize("case", BAD_RECORDS)
def test_a_bad_record_is_named_or_left_out(tmp_path: Path, case: str) -> None:
    content, message = BAD_RECORDS[case]
    path = write_coco(tmp_path, content)
    with pytest.raises(DataError, match=f"{path}, {message}"):
        build("coco", tmp_path)
    splits = build("coco", tmp_path, on_error="skip")
    assert len(splits.bad_files.reasons) == 1
    assert len(splits.train) == 2
    _, (objects, _) = splits.train.dataset[0]  # type: ignore[union-attr]
    assert (objects[:, 0] >= 0).tolist() == [True]


def test_a_box_that_exceeds_its_image_by_a_rounding_is_cut(tmp_path: Path) -> None:
    write_coco(tmp_path, changed("bbox", [40, 5, 20.4, 30]))
    splits = build("coco", tmp_path)
    _, (objects, _) = splits.train.dataset[0]  # type: ignore[union-attr]
    assert objects[0, 3] - objects[0, 1] == 10


def test_a_missing_image_is_named_or_left_out(tmp_path: Path) -> None:
    path = write_coco(tmp_path)
    (tmp_path / "train2017" / "2.png").unlink()
    with pytest.raises(DataError, match=rf"{path} names .*train2017/2\.png, and there is no such file"):
        build("coco", tmp_path)
    splits = build("coco", tmp_path, on_error="skip")
    assert (len(splits.train), len(splits.bad_files.reasons)) == (1, 1)


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    write_coco(tmp_path)
    bad = tmp_path / "val2017" / "3.png"
    bad.write_bytes(bad.read_bytes()[:60])
    with pytest.raises(DataError, match=r"val2017/3\.png cannot be decoded"):
        build("coco", tmp_path).test.dataset[2]  # type: ignore[union-attr]
    Image.new("RGB", (61, 40)).save(bad)
    with pytest.raises(DataError, match=r"val2017/3\.png is 61x40, its annotation says 60x40"):
        build("coco", tmp_path).test.dataset[2]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"images": [', "is damaged: it is no json"),
        ("[]", "is no instances json"),
        ('{"images": [], "categories": []}', "is no instances json.*'annotations'"),
        (json.dumps({"images": [{"id": 1}], "categories": [], "annotations": []}), "is no instances json.*'file_name'"),
        ('{"images": [], "categories": [], "annotations": [{"image_id": Infinity}]}', "is no instances json"),
        (json.dumps({"images": [], "categories": [], "annotations": []}), "names no image that is there"),
    ],
)
def test_a_damaged_annotation_file_ends_the_run_whatever_on_error(tmp_path: Path, content: str, message: str) -> None:
    path = write_coco(tmp_path)
    path.write_text(content)
    with pytest.raises(DataError, match=f"{path}.*{message}") as caught:
        build("coco", tmp_path, on_error="skip")
    assert "\n" not in str(caught.value)


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"annotations/instances_train2017\.json cannot be read"):
        build("coco", tmp_path)


def test_splits_of_different_categories_are_refused(tmp_path: Path) -> None:
    content = coco_annotations()
    content["categories"][0]["name"] = "brush"
    write_coco(tmp_path, content)
    with pytest.raises(DataError, match=r"different categories \(90 brush, 90 toothbrush\)"):
        build("coco", tmp_path)


def test_one_size_for_both_sides_bounds_the_longer_one(tmp_path: Path) -> None:
    write_coco(tmp_path)
    image, _ = build("coco", tmp_path, min_size=30, max_size=30).test.dataset[0]  # type: ignore[union-attr]
    assert image.shape == (3, 20, 30)


def test_sizes_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"min_size \(800\) is above max_size \(640\)"):
        config("coco", tmp_path, min_size=800, max_size=640)
