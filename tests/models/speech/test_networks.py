"""The speech networks: shapes, names, that padding and distance behave, blank inputs, what is refused."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import mptrain.models
from mptrain.errors import ConfigError
from mptrain.interfaces import DataSpec, InputSpec
from mptrain.models.speech.conformer import rotated
from mptrain.registry import MODELS

assert mptrain.models  # registers the entries

STRINGS = DataSpec((80, 20), 12, kind="transcription", more_inputs=(InputSpec((), 81),))
PICTURES = DataSpec((1, 62, 40), 10)
SMALL = {"width": 16, "depth": 2, "heads": 2, "kernel": 5, "stem_width": 4}


def build(name: str, spec: DataSpec, **options: object) -> nn.Module:
    torch.manual_seed(0)
    return MODELS.build(MODELS.config_type(name).model_validate({"name": name, **options}), spec)


def conformer(**options: object) -> nn.Module:
    return build("conformer", STRINGS, **{**SMALL, **options})


def batch() -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([80, 43, 7, 2])
    features = torch.randn(4, 80, 20, generator=torch.Generator().manual_seed(0))
    return features * (torch.arange(80) < lengths.unsqueeze(1)).unsqueeze(2), lengths


def test_a_quarter_of_the_frames_is_left() -> None:
    logits, lengths = conformer()(*batch())
    assert logits.shape == (4, 19, 12)
    assert lengths.tolist() == [19, 10, 1, 1]


def test_every_product_has_a_name() -> None:
    block = ["ff1.fc1", "ff1.fc2", "attn.qkv", "attn.proj", "conv.pointwise1", "conv.depthwise", "conv.pointwise2"]
    block += ["ff2.fc1", "ff2.fc2"]
    layers = [n for n, m in conformer().named_modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d)]
    blocks = [f"blocks.{index}.{name}" for index in range(2) for name in block]
    assert layers == ["stem.conv1", "stem.conv2", "stem.proj", *blocks, "head"]


def test_padding_changes_no_output_in_evaluation() -> None:
    model = conformer().eval()
    features, lengths = batch()
    with torch.no_grad():
        together, sizes = model(features, lengths)
        for row, length, size in zip(range(3), lengths.tolist(), sizes.tolist(), strict=False):
            alone, _ = model(features[row : row + 1, :length], lengths[row : row + 1])
            torch.testing.assert_close(together[row : row + 1, :size], alone, atol=1e-5, rtol=1e-4)


def test_every_frame_and_parameter_takes_part() -> None:
    model = conformer(dropout=0.0)
    features, lengths = batch()
    features.requires_grad_()
    logits, sizes = model(features, lengths)
    inside = torch.arange(19) < sizes.unsqueeze(1)
    (logits * inside.unsqueeze(2)).square().sum().backward()
    assert features.grad is not None
    assert features.grad[0, :79].abs().sum(1).all()  # the 80th is beyond the last stride
    assert not features.grad[1, 43:].any()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_products_of_rotated_frames_depend_on_their_distance() -> None:
    query, key = (torch.randn(8, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    queries, keys = (rotated(each.expand(1, 1, 30, 8)) for each in (query, key))
    products = (queries @ keys.transpose(2, 3))[0, 0]
    for distance in (0, 1, 7):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-4, rtol=1e-4)
    assert len({round(float(products[0, distance]), 3) for distance in range(6)}) == 6
    torch.testing.assert_close(queries.norm(dim=3), query.norm().expand(1, 1, 30))
    assert rotated(query.bfloat16().expand(1, 1, 3, 8)).dtype is torch.bfloat16


@pytest.mark.parametrize("frames", [3, 80])
def test_blank_and_short_inputs_are_finite(frames: int) -> None:
    logits, lengths = conformer()(torch.zeros(2, frames, 20), torch.full((2,), frames))
    assert logits.isfinite().all()
    assert lengths.tolist() == [logits.shape[1]] * 2


def test_nothing_is_decided_by_values() -> None:
    with FakeTensorMode():
        model = conformer()
        logits, _ = model(torch.zeros(2, 80, 20), torch.full((2,), 80))
        logits.sum().backward()
    assert logits.shape == (2, 19, 12)


def test_the_published_sizes() -> None:
    spec = DataSpec((1600, 80), 1024, kind="transcription", more_inputs=(InputSpec((), 1601),))
    with torch.device("meta"):
        small, medium = (build("conformer", spec, width=width) for width in (144, 256))
    counts = [sum(parameter.numel() for parameter in model.parameters()) / 1e6 for model in (small, medium)]
    assert counts == [pytest.approx(8.7, abs=0.5), pytest.approx(26.5, abs=0.5)]


@pytest.mark.parametrize("options", [{"heads": 3}, {"width": 6, "heads": 2}, {"kernel": 4}])
def test_shapes_that_do_not_fit_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        conformer(**options)


def test_data_that_do_not_suit_are_refused() -> None:
    with pytest.raises(ConfigError, match="needs features"):
        build("conformer", PICTURES)
    with pytest.raises(ConfigError, match="7 mel bins or more, not 6"):
        build("conformer", DataSpec((80, 6), 12, kind="transcription", more_inputs=(InputSpec((), 81),)))
    with pytest.raises(ConfigError, match="needs pictures of speech"):
        build("tc_resnet", STRINGS)
    with pytest.raises(ConfigError, match="needs pictures of speech"):
        build("tc_resnet", DataSpec((3, 32, 32), 10))


def test_tc_resnet_maps_pictures_to_classes() -> None:
    model = build("tc_resnet", PICTURES)
    pictures = torch.randn(4, 1, 62, 40, requires_grad=True)
    outputs = model(pictures)
    assert outputs.shape == (4, 10)
    assert build("tc_resnet", PICTURES, num_classes=12)(pictures).shape == (4, 12)
    outputs.square().sum().backward()
    assert pictures.grad is not None
    assert (pictures.grad != 0).all()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


@pytest.mark.parametrize("name", ["small_cnn", "resnet18", "mlp"])
def test_image_networks_take_the_pictures(name: str) -> None:
    assert build(name, PICTURES)(torch.zeros(2, 1, 62, 40)).shape == (2, 10)
