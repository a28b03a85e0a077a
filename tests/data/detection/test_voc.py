"""Pascal VOC's files: boxes counted from 1, difficult objects, and what is refused or left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from mptrain.data.detection.expected import VOC_CLASSES
from mptrain.data.expected import expected_spec
from mptrain.errors import DataError
from tests.data.detection.files import CAT, build, config, voc_xml, write_voc

CAT_CLASS, DOG_CLASS = VOC_CLASSES.index("cat"), VOC_CLASSES.index("dog")


def test_boxes_and_difficult_objects(tmp_path: Path) -> None:
    write_voc(tmp_path)
    splits = build("voc_detection", tmp_path)
    assert expected_spec(config("voc_detection", tmp_path)) == splits.spec
    assert (len(splits.train), len(splits.test)) == (2, 1)
    image, (objects, frame) = splits.test.dataset[0]  # type: ignore[union-attr]
    assert (image.shape, frame.tolist()) == ((3, 20, 30), [20, 30, 40, 60])
    assert objects.tolist() == [[CAT_CLASS, 0, 0, 15, 20, 0], [DOG_CLASS, 15, 5, 30, 20, 1]]
    _, (objects, _) = splits.train.dataset[0]  # type: ignore[union-attr]
    assert objects[:, 0].tolist() == [CAT_CLASS]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (voc_xml([CAT])[:-9], "is no VOC annotation"),
        ('<?xml version="1.0" encoding="martian"?><annotation/>', "is no VOC annotation .*unknown encoding"),
        ("<annotation/>", "is no VOC annotation .*there is no <size/width>"),
        (voc_xml([CAT]).replace("<ymin>1<", "<ymin>top<"), "is no VOC annotation"),
        (voc_xml([CAT, ("unicorn", (1, 1, 5, 5), False)]), "'unicorn' is none of VOC's classes"),
        (voc_xml([CAT, ("dog", (50, 1, 70, 5), False)]), "dog: the box .* leaves its image"),
        (voc_xml([CAT, ("dog", (50, 9, 55, 5), False)]), "dog: the box .* has no area"),
    ],
)
def test_a_bad_annotation_is_named_or_left_out(tmp_path: Path, content: str, message: str) -> None:
    write_voc(tmp_path)
    path = tmp_path / "Annotations" / "2007_2.xml"
    path.write_text(content)
    with pytest.raises(DataError, match=f"{path}.*{message}") as caught:
        build("voc_detection", tmp_path)
    assert "\n" not in str(caught.value)
    splits = build("voc_detection", tmp_path, on_error="skip")
    assert len(splits.bad_files.reasons) == 1
    assert len(splits.train) == (2 if "dog" in message or "unicorn" in message else 1)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("ImageSets/Main/val.txt", r"val\.txt cannot be read"),
        ("Annotations/2007_1.xml", r"2007_1\.xml cannot be read"),
        ("JPEGImages/2007_1.jpg", r"2007_1\.xml annotates .*2007_1\.jpg, and there is no such file"),
    ],
)
def test_a_missing_file_is_named(tmp_path: Path, missing: str, message: str) -> None:
    write_voc(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(DataError, match=message):
        build("voc_detection", tmp_path)


def test_lists_without_boxes_are_refused(tmp_path: Path) -> None:
    write_voc(tmp_path)
    (tmp_path / "Annotations" / "2007_3.xml").unlink()
    with pytest.raises(DataError, match=r"listed in .*val\.txt have no boxes"):
        build("voc_detection", tmp_path, on_error="skip")
