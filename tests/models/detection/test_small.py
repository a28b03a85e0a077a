"""The small detector: shapes, decoding, suppression, FP32 losses, no device read while training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mptrain.models
from mptrain.errors import ConfigError
from mptrain.interfaces import DataSpec, Detector
from mptrain.models.detection.fcos_loss import DenseOutputs
from mptrain.models.detection.small import MIN_SCORE, PLACES, SmallFcos
from mptrain.registry import MODELS
from tests.trainer.runs import PRECISIONS, precision_id, trainer
from tests.trainer.test_host_reads import CountHostReads, NoticeHostReads

assert mptrain.models  # registers the entries

SPEC = DataSpec((1, 48, 64), 3, kind="detection")
SMALL = {"widths": [4, 4, 8, 8], "head_width": 8}


def build(spec: DataSpec = SPEC, **options: Any) -> Any:
    section = {"name": "small_fcos", **SMALL, **options}
    return MODELS.build(MODELS.config_type("small_fcos").model_validate(section), spec)


@pytest.mark.parametrize(("height", "width", "places"), [(48, 64, 48), (45, 60, 48), (8, 8, 1)])
def test_outputs_at_every_eighth_pixel(height: int, width: int, places: int) -> None:
    model = build()
    assert isinstance(model, Detector)
    outputs = model(torch.randn(2, 1, height, width))
    assert [tuple(part.shape) for part in outputs] == [(2, places, 3), (2, places, 4), (2, places), (places, 2)]
    assert outputs.locations[0].tolist() == [4, 4]


def test_locations_and_features_belong_together() -> None:
    """A box can only be learned exactly where what is said of a place is said at that place."""
    torch.manual_seed(0)
    model = build()
    image, objects = torch.zeros(1, 1, 48, 64), torch.tensor([[[2.0, 36, 6, 52, 24, 0], [0, 5, 20, 21, 40, 0]]])
    image[..., 6:24, 36:52], image[..., 20:40, 5:21] = 1, 0.5
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        model.loss(model(image, objects), objects).backward()
        optimizer.step()
    found = model.detections(model(image))
    best = {int(number): box for number, box in zip(found.classes[0].flip(0), found.boxes[0].flip(0), strict=True)}
    assert (best[2] - objects[0, 0, 1:5]).abs().max() < 2
    assert (best[0] - objects[0, 1, 1:5]).abs().max() < 2


def said(boxes: list[tuple[int, int, float]]) -> DenseOutputs:
    """Outputs of one 32x32 image, confident in 16x16 boxes: (location, class, logit)."""
    logits = torch.full((1, 16, 3), -20.0)
    for place, number, logit in boxes:
        logits[0, place, number] = logit
    locations = torch.cartesian_prod(torch.arange(4), torch.arange(4)).flip(1) * 8.0 + 4
    return DenseOutputs(logits, torch.zeros(1, 16, 4), torch.full((1, 16), 20.0), locations)


def test_detections_are_decoded_and_doubles_suppressed() -> None:
    model = build()
    outputs = said([(5, 1, 4.0), (10, 1, 3.0), (10, 2, 2.0), (0, 0, -6.0)])
    # The second box of class 1 covers most of the first.
    outputs.distances[0, 10] = torch.tensor([15.0, 15, 1, 1]).div(8).log()
    found = model.detections(outputs)
    assert (found.classes[0, :3].tolist(), found.classes[0, 2:].unique().tolist()) == ([1, 2, -1], [-1])
    assert found.boxes[0, :2].round().tolist() == [[4, 4, 20, 20], [5, 5, 21, 21]]
    assert found.scores[0, :2].tolist() == pytest.approx(
        [float(torch.tensor(v).sigmoid().sqrt()) for v in (4.0, 2.0)], abs=1e-4
    )
    assert (found.boxes.shape, found.scores[0, 2:].max()) == ((1, PLACES, 4), 0)


def test_few_are_kept_of_many() -> None:
    outputs = build(num_classes=9)(torch.randn(2, 1, 128, 128))
    found = build(num_classes=9).detections(outputs._replace(logits=outputs.logits + 5))
    assert (found.classes >= 0).all()
    assert (found.scores > MIN_SCORE).all()
    assert (found.scores.diff() <= 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_losses_and_detections_are_at_least_fp32(dtype: torch.dtype) -> None:
    model = build()
    with torch.no_grad():
        outputs = model(torch.randn(2, 1, 48, 64))
    low = DenseOutputs(*(part.to(dtype) for part in outputs[:3]), outputs.locations)
    objects = torch.tensor([[[0.0, 3, 3, 30, 30, 0]], [[2.0, 5, 5, 25, 40, 0]]])
    loss = model.loss(low, objects)
    assert loss.dtype is (torch.float64 if dtype is torch.float64 else torch.float32)
    assert float(loss) == pytest.approx(float(model.loss(outputs, objects)), rel=0.02)
    assert [part.dtype for part in model.detections(low)] == [torch.float32, torch.float32, torch.int64]


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        (DataSpec((8,), 3, kind="detection"), {}, "small_fcos needs images"),
        (SPEC, {"head_width": 12}, "model.head_width: 12 is no multiple of 8"),
    ],
)
def test_what_does_not_suit_is_refused(spec: DataSpec, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(spec, **options)


RUN = {
    "model": {"name": "small_fcos", **SMALL},
    "data": {"name": "fashion_scenes", "num_train": 16, "num_test": 4, "image_size": 48, "batch_size": 4},
    "task": "detection",
    "train": {"max_steps": 5, "clip_norm": 1.0},
}


@pytest.mark.parametrize("precision", PRECISIONS, ids=precision_id)
def test_no_device_read_in_a_training_step(precision: dict[str, Any]) -> None:
    made = trainer({**RUN, "precision": precision, "optimizer": {"name": "adamw", "lr": 1e-3}})
    counter, notice, step = CountHostReads(), NoticeHostReads(), made._step

    def watched(window: Any) -> int:
        with counter, notice:
            return step(window)

    made._step = watched
    made.fit()
    assert made.ledger.counts.applied == 5
    assert (counter.reads, notice.seen) == (0, set())


def test_every_product_is_a_named_layer() -> None:
    layers = {name for name, module in build().named_modules() if isinstance(module, nn.Conv2d)}
    assert {"stages.0.conv1", "class_branch.conv2", "class_logits", "box_distances", "box_centreness"} <= layers
    assert isinstance(build(), SmallFcos)


def test_shapes_do_not_depend_on_values() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    model = build()
    objects: Tensor = torch.zeros(2, 3, 6)
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        outputs = model(fake.from_tensor(torch.zeros(2, 1, 48, 64)), fake.from_tensor(objects))
        assert model.loss(outputs, fake.from_tensor(objects)).shape == ()
