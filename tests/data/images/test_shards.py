"""Images in tar shards: read in place, in any number of workers, resumed in mid-epoch; what is damaged is named."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch

import mptrain.data
from mptrain.data.expected import expected_spec
from mptrain.data.loading import make_eval_loader, make_train_loader
from mptrain.errors import ConfigError, DataError
from mptrain.interfaces import Batch, DataSplits
from mptrain.registry import DATASETS
from tests.data.shards import png, sample, write_shards, write_tar

assert mptrain.data  # registers the entries

CPU = torch.device("cpu")


def config(root: Path, **options: Any) -> Any:
    patterns = {"train": f"{root}/train-{{000..002}}.tar", "test": f"{root}/test-*.tar"}
    chosen = {"name": "image_shards", "num_classes": 4, "image_size": 8, "batch_size": 4, **patterns, **options}
    return DATASETS.config_type("image_shards").model_validate(chosen)


def build(root: Path, **options: Any) -> DataSplits:
    return DATASETS.build(config(root, **options), 0)


def epoch(splits: DataSplits, root: Path, number: int, start: int = 0, **options: Any) -> list[Batch]:
    return list(make_train_loader(splits.train, config(root, **options), seed=3, device=CPU).epoch(number, start))


def test_shards_are_read_in_place(tmp_path: Path) -> None:
    write_shards(tmp_path)
    splits = build(tmp_path)
    assert (len(splits.train), len(splits.test)) == (21, 10)
    assert splits.spec == expected_spec(config(tmp_path))
    (batch,) = make_eval_loader(splits.test, config(tmp_path, batch_size=16), device=CPU)
    assert batch.targets.tolist() == [i % 4 for i in range(30, 40)]
    # The red of picture i is i of 255, normalised.
    red = (torch.arange(30, 40) / 255 - 0.485) / 0.229
    assert torch.allclose(batch.inputs[:, 0].mean((1, 2)), red, atol=1e-5)


@pytest.mark.parametrize("start", [0, 2, 4])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_epoch_can_be_entered_anywhere_with_any_number_of_workers(
    tmp_path: Path, start: int, num_workers: int
) -> None:
    write_shards(tmp_path)
    whole = epoch(build(tmp_path), tmp_path, 2)
    again = epoch(build(tmp_path), tmp_path, 2, start, num_workers=num_workers)
    assert len(again) == 5 - start
    for one, other in zip(again, whole[start:], strict=True):
        assert torch.equal(one.inputs, other.inputs)
        assert torch.equal(one.targets, other.targets)


def test_the_identity_is_what_the_shards_hold_and_not_where_they_are(tmp_path: Path) -> None:
    write_shards(tmp_path / "a")
    write_shards(tmp_path / "b")
    one, same = build(tmp_path / "a"), build(tmp_path / "b")
    assert one.identity == same.identity
    write_tar(tmp_path / "b" / "test-001.tar", [m for i in range(35, 41) for m in sample(i)])
    assert build(tmp_path / "b").identity != one.identity


def test_a_damaged_image_is_named_with_its_shard(tmp_path: Path) -> None:
    write_shards(tmp_path)
    write_tar(tmp_path / "test-001.tar", [*sample(1), ("000007.png", png(7)[:60]), ("000007.cls", b"3")])
    with pytest.raises(DataError, match=r"test-001\.tar: 000007\.png cannot be decoded"):
        list(make_eval_loader(build(tmp_path).test, config(tmp_path), device=CPU))


def test_names_that_are_no_utf8_are_only_names(tmp_path: Path) -> None:
    write_shards(tmp_path)
    members = [("caf\xe9.png", png(7)), ("caf\xe9.cls", b"3"), ("th\xe9.png", png(7)[:60]), ("th\xe9.cls", b"3")]
    write_tar(tmp_path / "test-001.tar", members, format=tarfile.GNU_FORMAT, encoding="latin-1")
    test = build(tmp_path).test
    assert test.dataset[4][1] == 3  # type: ignore[union-attr]
    with pytest.raises(DataError, match=r"test-001\.tar: th\\udce9\.png cannot be decoded"):
        test.dataset[5]  # type: ignore[union-attr]


BAD_SAMPLES = {
    "no class": ([("b.png", png(1))], "b has no class"),
    "no image": ([("b.cls", b"1")], r"b has no image \(\.jpg"),
    "no number": ([("b.png", png(1)), ("b.cls", b"cat")], r"b\.cls: holds no class"),
    "out of range": ([("b.png", png(1)), ("b.cls", b"4")], r"b\.cls: the class is 4; .* from 0 to 3"),
    "negative": ([("b.png", png(1)), ("b.cls", b"-1")], "the class is -1"),
    "no key": ([("b.png", png(1)), ("b.json", b'{"cls": 1}')], r"b\.json: has no 'label'; set data\.label_key"),
    "no object": ([("b.png", png(1)), ("b.json", b"[1]")], r"b\.json: holds no class"),
    "no whole number": ([("b.png", png(1)), ("b.json", b'{"label": 1.5}')], "the class is 1.5"),
    "no text": ([("b.png", png(1)), ("b.json", b"\xff\xfe")], r"b\.json: holds no class"),
    "huge": ([("b.png", png(1)), ("b.cls", b"1" * (2**20 + 1))], r"holds 1,048,577 bytes"),
}


@pytest.mark.parametrize("case", sorted(BAD_SAMPLES))
def test_a_sample_that_cannot_be_used_is_named_or_left_out(tmp_path: Path, case: str) -> None:
    members, words = BAD_SAMPLES[case]
    write_shards(tmp_path)
    write_tar(tmp_path / "test-000.tar", [*sample(0), *members, *sample(3)])
    with pytest.raises(DataError, match=rf"test-000\.tar: {words}" if words.startswith("b") else words):
        build(tmp_path)
    splits = build(tmp_path, on_error="skip")
    assert len(splits.test) == 2 + 6
    assert len(splits.bad_files.reasons) == 1


def test_a_shard_cut_short_is_named_or_left_out_whole(tmp_path: Path) -> None:
    write_shards(tmp_path)
    path = tmp_path / "train-002.tar"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"train-002\.tar"):
        build(tmp_path)
    splits = build(tmp_path, on_error="skip")
    assert len(splits.train) == 11
    assert len(splits.bad_files.reasons) == 1


def test_a_test_shard_that_is_also_for_training_is_refused(tmp_path: Path) -> None:
    write_shards(tmp_path)
    with pytest.raises(ConfigError, match=r"data\.test: .*/test-000\.tar is also a training file"):
        build(tmp_path, train=f"{tmp_path}/*.tar")


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    write_shards(tmp_path)
    with pytest.raises(DataError, match=r"data\.train: .* matches no file"):
        build(tmp_path, train=f"{tmp_path}/none-*.tar")
    write_tar(tmp_path / "empty.tar", [])
    with pytest.raises(DataError, match=r"data\.test: no sample of .* can be used"):
        build(tmp_path, test=f"{tmp_path}/empty.tar")
    with pytest.raises(DataError, match="no sample of"):
        build(tmp_path, test=f"{tmp_path}/absent-{{0..3}}.tar", on_error="skip")
