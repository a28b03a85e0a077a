"""Names and descriptions of the built-in models.

Owns: their registration. Must not: import torch at module level; `basic`, `small` and `vision` hold the code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mptrain.interfaces import DataSpec
from mptrain.models.configs import (
    AuxConfig,
    HfConfig,
    LinearConfig,
    MlpConfig,
    ResNetConfig,
    SmallCnnConfig,
    SmallResNetConfig,
    SmallVitConfig,
    TimmConfig,
    VisionConfig,
)
from mptrain.registry import MODELS

if TYPE_CHECKING:
    from torch import nn


_RESNETS: Mapping[str, tuple[str, ...]] = {
    "ResNet": ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    "ResNeXt": ("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
    "Wide ResNet": ("wide_resnet50_2", "wide_resnet101_2"),
}
_AUX: Mapping[str, tuple[str, ...]] = {"GoogLeNet (Inception v1)": ("googlenet",), "Inception v3": ("inception_v3",)}
# fmt: off
_OTHERS: Mapping[str, tuple[str, ...]] = {
    "AlexNet": ("alexnet",),
    "ConvNeXt": ("convnext_tiny", "convnext_small", "convnext_base", "convnext_large"),
    "DenseNet": ("densenet121", "densenet161", "densenet169", "densenet201"),
    "EfficientNet": (
        "efficientnet_b0", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3", "efficientnet_b4",
        "efficientnet_b5", "efficientnet_b6", "efficientnet_b7",
    ),
    "EfficientNetV2": ("efficientnet_v2_s", "efficientnet_v2_m", "efficientnet_v2_l"),
    "MaxViT": ("maxvit_t",),
    "MNASNet": ("mnasnet0_5", "mnasnet0_75", "mnasnet1_0", "mnasnet1_3"),
    "MobileNetV2": ("mobilenet_v2",),
    "MobileNetV3": ("mobilenet_v3_small", "mobilenet_v3_large"),
    "RegNetX": (
        "regnet_x_400mf", "regnet_x_800mf", "regnet_x_1_6gf", "regnet_x_3_2gf", "regnet_x_8gf", "regnet_x_16gf",
        "regnet_x_32gf",
    ),
    "RegNetY": (
        "regnet_y_400mf", "regnet_y_800mf", "regnet_y_1_6gf", "regnet_y_3_2gf", "regnet_y_8gf", "regnet_y_16gf",
        "regnet_y_32gf", "regnet_y_128gf",
    ),
    "ShuffleNetV2": ("shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0"),
    "SqueezeNet": ("squeezenet1_0", "squeezenet1_1"),
    "Swin Transformer": ("swin_t", "swin_s", "swin_b"),
    "Swin Transformer V2": ("swin_v2_t", "swin_v2_s", "swin_v2_b"),
    "VGG": ("vgg11", "vgg13", "vgg16", "vgg19"),
    "VGG with batch norm": ("vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"),
    "Vision Transformer": ("vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32", "vit_h_14"),
}
# fmt: on


def _build_vision(config: VisionConfig, spec: DataSpec) -> nn.Module:
    from mptrain.models.vision import build_vision

    return build_vision(config, spec)


for _config, _families in ((ResNetConfig, _RESNETS), (AuxConfig, _AUX), (VisionConfig, _OTHERS)):
    for _family, _names in _families.items():
        for _name in _names:
            MODELS.register(_name, config=_config, description=f"{_family}, torchvision", flags=("torchvision",))(
                _build_vision
            )


@MODELS.register("timm/*", config=TimmConfig, description="Any of timm's networks, e.g. timm/vit_tiny_patch16_224")
def build_timm(config: TimmConfig, spec: DataSpec) -> nn.Module:
    """Build timm's network for images of `spec.input_shape`, (N, C, H, W) -> (N, outputs)."""
    from mptrain.models import timm_names

    return timm_names.build_timm(config, spec)


@MODELS.register("mlp", config=MlpConfig, description="Fully connected layers on the flattened input")
def build_mlp(config: MlpConfig, spec: DataSpec) -> nn.Module:
    """Build the MLP for inputs of `spec.input_shape`, (N, ...) -> (N, outputs)."""
    from mptrain.models import basic

    return basic.mlp(config, spec)


@MODELS.register("linear", config=LinearConfig, description="One linear layer on the flattened input")
def build_linear(config: LinearConfig, spec: DataSpec) -> nn.Module:
    """Build the linear model for inputs of `spec.input_shape`, (N, ...) -> (N, outputs)."""
    from mptrain.models import basic

    return basic.linear(config, spec)


@MODELS.register("small_cnn", config=SmallCnnConfig, description="Three 3x3 convolutions, for experiments on a CPU")
def build_small_cnn(config: SmallCnnConfig, spec: DataSpec) -> nn.Module:
    """Build the convnet for images of `spec.input_shape`, (N, C, H, W) -> (N, outputs)."""
    from mptrain.models import small

    return small.small_cnn(config, spec)


@MODELS.register("small_resnet", config=SmallResNetConfig, description="ResNet-8 to ResNet-110 for small images")
def build_small_resnet(config: SmallResNetConfig, spec: DataSpec) -> nn.Module:
    """Build the residual network for images of `spec.input_shape`, (N, C, H, W) -> (N, outputs)."""
    from mptrain.models import small

    return small.small_resnet(config, spec)


@MODELS.register("small_vit", config=SmallVitConfig, description="Two transformer blocks on patches, for experiments")
def build_small_vit(config: SmallVitConfig, spec: DataSpec) -> nn.Module:
    """Build the transformer for images of `spec.input_shape`, (N, C, H, W) -> (N, outputs)."""
    from mptrain.models import small

    return small.small_vit(config, spec)


@MODELS.register("hf/*", config=HfConfig, description="Any of transformers' networks for text, e.g. hf/gpt2")
def build_hf(config: HfConfig, spec: DataSpec) -> nn.Module:
    """Build transformers' network for token ids: (N, T) -> logits."""
    from mptrain.models import hf_names

    return hf_names.build_hf(config, spec)
