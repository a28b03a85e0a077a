"""Blue Marble: which pixels belong to which split, and what a crop holds."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

import mptrain.data
from mptrain.data.bundled_files import read_bundled
from mptrain.data.expected import expected_spec
from mptrain.data.loading import make_eval_loader, make_train_loader
from mptrain.data.segmentation import blue_marble
from mptrain.errors import ConfigError
from mptrain.interfaces import DataSplits, Streamed
from mptrain.registry import DATASETS

assert mptrain.data  # registers the entries

CPU = torch.device("cpu")


def config(**options: object) -> blue_marble.BlueMarbleConfig:
    made = DATASETS.config_type("blue_marble").model_validate({"name": "blue_marble", "batch_size": 8, **options})
    assert isinstance(made, blue_marble.BlueMarbleConfig)
    return made


@pytest.fixture(scope="module")
def splits() -> DataSplits:
    return DATASETS.build(config(), 0)


def test_the_test_tiles_are_the_picture_between_0_and_60_east(splits: DataSplits) -> None:
    picture, land = (
        np.array(Image.open(io.BytesIO(read_bundled(name)))) for name in ("bluemarble.jpg", "bluemarble_land.png")
    )
    assert isinstance(splits.test, Streamed)
    assert len(splits.test) == 28 * 9
    for index, row, column in ((0, 0, 2700), (10, 96, 2796), (251, 27 * 96, 2700 + 8 * 96)):
        image, mask = splits.test.dataset[index]
        assert np.array_equal(image.permute(1, 2, 0).numpy(), picture[row : row + 96, column : column + 96])
        assert np.array_equal(mask.numpy(), land[row : row + 96, column : column + 96])
    masks = torch.stack([splits.test.dataset[index][1] for index in range(252)])
    assert float(masks.float().mean()) == pytest.approx(0.5026, abs=1e-3)


def test_training_never_sees_the_test_band_nor_the_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = torch.arange(5400).div(30, rounding_mode="floor").to(torch.uint8).expand(3, 2700, 5400)
    monkeypatch.setattr(blue_marble, "_decoded", lambda: (columns, torch.zeros(2700, 5400, dtype=torch.uint8)))
    train = DATASETS.build(config(crops_per_epoch=500), 0).train
    assert isinstance(train, Streamed)
    torch.manual_seed(0)
    seen = torch.cat([train.dataset[index][0].flatten() for index in range(500)]).unique()
    expected = [*range((2700 - 60) // 30), *range((3600 + 60) // 30, 5400 // 30)]
    assert set(seen.tolist()) <= set(expected)
    assert len(seen) > 0.95 * len(expected)


def test_batches_have_the_crops_shape_and_repeat(splits: DataSplits) -> None:
    assert splits.spec == expected_spec(config())
    assert splits.spec.class_names == ("sea", "land")
    loader = make_train_loader(splits.train, config(), seed=3, device=CPU)
    assert len(loader) == 1024 // 8
    first = next(iter(loader.epoch(0)))
    assert (first.inputs.shape, first.inputs.dtype) == ((8, 3, 96, 96), torch.float32)
    assert (first.targets.shape, first.targets.dtype) == ((8, 96, 96), torch.int64)
    assert torch.equal(next(iter(loader.epoch(0))).inputs, first.inputs)
    assert not torch.equal(next(iter(loader.epoch(1))).inputs, first.inputs)
    evaluated = next(iter(make_eval_loader(splits.test, config(), device=CPU)))
    assert evaluated.inputs.shape == (8, 3, 96, 96)


def test_other_crops_tile_the_band_too() -> None:
    made = DATASETS.build(config(image_size=[128, 64], crops_per_epoch=16), 0)
    assert isinstance(made.test, Streamed)
    assert len(made.test) == (2700 // 128) * (900 // 64)
    assert made.test.dataset[0][0].shape == (3, 128, 64)
    with pytest.raises(IndexError):
        made.test.dataset[len(made.test)]


@pytest.mark.parametrize("options", [{"image_size": [96, 901]}, {"image_size": [96, 500], "scale": [0.5, 1.0]}])
def test_crops_larger_than_the_band_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="does not fit into the 900 pixels of the test band"):
        DATASETS.build(config(**options), 0)
