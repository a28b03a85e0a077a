"""The loss of the small detector: who learns what, beside a plain loop; and what must not count."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import generalized_box_iou

from mptrain.models.detection.fcos_loss import CENTRE_RADIUS, DenseOutputs, assign, decode, dense_loss, generalized_iou

STRIDE = 8
LOCATIONS = torch.cartesian_prod(torch.arange(6), torch.arange(6)).flip(1) * 8.0 + 4
PADDING = [-1.0] * 6
CLASSES = 3


def random_objects(seed: int, images: int = 4, boxes: int = 5) -> Tensor:
    """Boxes of 4 to 30 pixels in 48x48 images; a class of -1 is padding, a fifth are crowds."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(images, boxes, 2, generator=generator) * 30
    size = 4 + torch.rand(images, boxes, 2, generator=generator) * 26
    classes = torch.randint(-1, CLASSES, (images, boxes, 1), generator=generator)
    crowd = torch.rand(images, boxes, 1, generator=generator) < 0.2
    return torch.cat((classes, corner, corner + size, crowd), 2)


def random_outputs(images: int, dtype: torch.dtype = torch.float32) -> DenseOutputs:
    generator = torch.Generator().manual_seed(1)
    parts = [torch.randn(images, 36, width, generator=generator, dtype=dtype) for width in (CLASSES, 4, 1)]
    for part in parts:
        part.requires_grad_()
    return DenseOutputs(parts[0], parts[1], parts[2].squeeze(2), LOCATIONS)


def by_loop(x: float, y: float, objects: list[list[float]]) -> tuple[int, float] | None:
    """Return the class and centre-ness that the location (x, y) learns: FCOS, section 3, read literally."""
    found = []
    for number, x1, y1, x2, y2, crowd in objects:
        left, top, right, bottom = x - x1, y - y1, x2 - x, y2 - y
        near = max(abs(x - (x1 + x2) / 2), abs(y - (y1 + y2) / 2)) < CENTRE_RADIUS * STRIDE
        if number >= 0 and not crowd and min(left, top, right, bottom) > 0 and near:
            ratio = min(left, right) / max(left, right) * min(top, bottom) / max(top, bottom)
            found.append(((x2 - x1) * (y2 - y1), int(number), ratio**0.5))
    return min(found)[1:] if found else None


@pytest.mark.parametrize("seed", range(5))
def test_assignment_agrees_with_a_plain_loop(seed: int) -> None:
    objects = random_objects(seed)
    got = assign(LOCATIONS, objects, STRIDE)
    assert 0 < got.positive.sum() < got.positive.numel()
    for image in range(len(objects)):
        for place, (x, y) in enumerate(LOCATIONS.tolist()):
            wanted = by_loop(x, y, objects[image].tolist())
            assert bool(got.positive[image, place]) == (wanted is not None)
            if wanted is not None:
                assert int(got.classes[image, place]) == wanted[0]
            assert float(got.centreness[image, place]) == pytest.approx(wanted[1] if wanted else 0.0, abs=1e-5)


def test_generalized_iou_is_torchvisions() -> None:
    a, b = (random_objects(seed)[..., 1:5].flatten(0, 1).double() for seed in (0, 1))
    assert torch.allclose(generalized_iou(a, b), generalized_box_iou(a, b).diagonal())
    assert generalized_iou(a, b).min() < 0 < generalized_iou(a, b).max()


def test_padding_and_crowds_change_nothing() -> None:
    objects = random_objects(0)
    outputs = random_outputs(len(objects))
    loss = dense_loss(outputs, objects, STRIDE)
    padded = torch.cat((objects, torch.tensor(PADDING).expand(len(objects), 3, 6)), 1)
    assert torch.equal(dense_loss(outputs, padded, STRIDE), loss)
    crowded = torch.cat((objects, torch.tensor([1.0, 2, 2, 40, 40, 1]).expand(len(objects), 1, 6)), 1)
    assert torch.equal(dense_loss(outputs, crowded, STRIDE), loss)


def perfect(objects: Tensor) -> DenseOutputs:
    """Outputs that say exactly what is wanted."""
    wanted = assign(LOCATIONS, objects, STRIDE)
    classes = torch.nn.functional.one_hot(wanted.classes.clamp(min=0), CLASSES).bool() & wanted.positive.unsqueeze(2)
    x, y = LOCATIONS.unbind(1)
    x1, y1, x2, y2 = wanted.boxes.unbind(2)
    sides = torch.stack((x - x1, y - y1, x2 - x, y2 - y), 2).clamp(min=1e-6)
    centreness = wanted.centreness.clamp(1e-6, 1 - 1e-6).logit()
    return DenseOutputs(torch.where(classes, 20.0, -20.0), (sides / STRIDE).log(), centreness, LOCATIONS)


def test_perfect_outputs_lose_only_what_no_output_can_avoid() -> None:
    objects = random_objects(0)
    outputs, wanted = perfect(objects), assign(LOCATIONS, objects, STRIDE)
    assert torch.allclose(decode(outputs.distances, LOCATIONS, STRIDE)[wanted.positive], wanted.boxes[wanted.positive])
    share = wanted.centreness[wanted.positive].double().clamp(1e-6, 1 - 1e-6)
    entropy = -(share * share.log() + (1 - share) * (1 - share).log()).mean()
    assert float(dense_loss(outputs, objects, STRIDE)) == pytest.approx(float(entropy), abs=1e-4)
    worse = outputs._replace(distances=outputs.distances + 0.2)
    assert dense_loss(worse, objects, STRIDE) > entropy + 0.1
    worse = outputs._replace(logits=-outputs.logits)
    assert dense_loss(worse, objects, STRIDE) > entropy + 1


def test_images_without_objects_give_a_finite_loss_and_gradient() -> None:
    outputs = random_outputs(2)
    dense_loss(outputs, torch.tensor(PADDING).expand(2, 1, 6), STRIDE).backward()
    assert outputs.logits.grad is not None
    assert outputs.logits.grad.isfinite().all()
    assert outputs.logits.grad.abs().sum() > 0
    assert outputs.distances.grad is not None
    assert (outputs.distances.grad == 0).all()


def test_the_gradient_is_that_of_finite_differences() -> None:
    objects = random_objects(3, images=1).double()
    outputs = DenseOutputs(*(part.double() for part in random_outputs(1)))

    def loss(logits: Tensor, distances: Tensor, centreness: Tensor) -> Tensor:
        return dense_loss(DenseOutputs(logits, distances, centreness, outputs.locations), objects, STRIDE)

    inputs = tuple(part.detach().requires_grad_() for part in outputs[:3])
    assert torch.autograd.gradcheck(loss, inputs, fast_mode=True)
