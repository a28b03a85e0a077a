"""The small image networks: shapes, names, that each input reaches each output, and what is refused."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import nn

import mptrain.models
from mptrain.interfaces import DataSpec
from mptrain.registry import MODELS

assert mptrain.models  # registers the entries

GREY = DataSpec((1, 28, 28), 10)


def build(spec: DataSpec, name: str, **options: object) -> nn.Module:
    torch.manual_seed(0)
    return MODELS.build(MODELS.config_type(name).model_validate({"name": name, **options}), spec)


def layers(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]


def test_every_product_of_the_convnet_has_a_name() -> None:
    assert layers(build(GREY, "small_cnn")) == ["blocks.0.conv", "blocks.1.conv", "blocks.2.conv", "head"]


def test_every_product_with_weights_of_the_transformer_has_a_name() -> None:
    block = ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"]
    assert layers(build(GREY, "small_vit")) == [
        "embed",
        *(f"blocks.{index}.{name}" for index in range(2) for name in block),
        "head",
    ]


@pytest.mark.parametrize("name", ["small_cnn", "small_resnet", "small_vit"])
@pytest.mark.parametrize("spec", [GREY, DataSpec((3, 14, 21), 7)])
def test_shapes_follow_the_data(name: str, spec: DataSpec) -> None:
    model = build(spec, name)
    assert model(torch.randn(4, *spec.input_shape)).shape == (4, spec.num_outputs)
    assert build(spec, name, num_classes=12)(torch.randn(4, *spec.input_shape)).shape == (4, 12)


@pytest.mark.parametrize(
    ("name", "options"),
    [("small_cnn", {}), ("small_cnn", {"norm": "none"}), ("small_resnet", {"blocks": 2}), ("small_vit", {})],
)
def test_every_pixel_and_parameter_takes_part(name: str, options: dict[str, object]) -> None:
    model = build(GREY, name, **options)
    images = torch.randn(64, 1, 28, 28, requires_grad=True)
    nn.functional.cross_entropy(model(images), torch.arange(64) % 10).backward()
    assert images.grad is not None
    assert bool((images.grad.abs().sum(0) > 0).all())
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert bool(parameter.grad.any()), parameter_name


def test_three_blocks_a_stage_are_resnet_20() -> None:
    """0.27M parameters (table 6), but for the shortcuts: they have none in the paper (option A)."""
    model = build(DataSpec((3, 32, 32), 10), "small_resnet", blocks=3)
    main_path = [name for name in layers(model) if "downsample" not in name]
    assert len(main_path) == 20
    shortcuts = sum(p.numel() for name, p in model.named_parameters() if "downsample" in name)
    assert shortcuts == 16 * 32 + 32 * 64 + 2 * (32 + 64)
    assert sum(p.numel() for p in model.parameters()) - shortcuts == 269_722


def test_patches_are_the_images_squares_in_reading_order() -> None:
    model = build(DataSpec((2, 4, 6), 3), "small_vit", patch_size=2, width=8, heads=2, depth=1)
    seen = []
    model.get_submodule("embed").register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    images = torch.randn(5, 2, 4, 6)
    model(images)
    squares = [images[:, :, row : row + 2, column : column + 2] for row in (0, 2) for column in (0, 2, 4)]
    assert torch.equal(seen[0], torch.stack([square.flatten(1) for square in squares], dim=1))


def test_attention_is_that_of_torch() -> None:
    model = build(GREY, "small_vit", depth=1)
    mine = model.get_submodule("blocks.0.attn")
    theirs = nn.MultiheadAttention(64, 4, batch_first=True)
    own = mine.state_dict()
    theirs.load_state_dict(
        {
            "in_proj_weight": own["qkv.weight"],
            "in_proj_bias": own["qkv.bias"],
            "out_proj.weight": own["proj.weight"],
            "out_proj.bias": own["proj.bias"],
        }
    )
    tokens = torch.randn(3, 16, 64)
    torch.testing.assert_close(mine(tokens), theirs(tokens, tokens, tokens)[0], rtol=1e-5, atol=1e-6)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValidationError, match=r"heads \(5\) must divide width \(64\)"):
        build(GREY, "small_vit", heads=5)
