"""torchvision's classification networks, fitted to the data: outputs, input channels, image size, stem.

Owns: what is changed in a network before its weights are loaded. Must not: read weight files (see `weights`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mptrain.errors import ConfigError, first_line
from mptrain.interfaces import DataSpec
from mptrain.models.configs import AuxConfig, ResNetConfig
from mptrain.models.image_shape import image_shape
from mptrain.models.weights import is_download, load_weights
from mptrain.torchvision_import import import_torchvision

if TYPE_CHECKING:
    from mptrain.models.configs import VisionConfig


def build_vision(config: VisionConfig, spec: DataSpec) -> nn.Module:
    """Build the network named `config.name` in FP32 for images of `spec.input_shape` (channels, height, width).

    Raises ConfigError when the data are no images or their size does not suit the network, CapabilityError when
    torchvision does not import, DataError when the weights are missing or damaged.
    """
    channels, height, width = image_shape(config.name, spec)
    models = import_torchvision("models")
    num_outputs = config.num_classes or spec.num_outputs
    try:
        model: nn.Module = models.get_model(
            config.name, weights=None, num_classes=num_outputs, **_options(config, height, width)
        )
    except ValueError as error:
        raise ConfigError(
            f"model.name: {config.name} cannot take images of {spec.input_shape}: {first_line(error)}"
        ) from error
    if isinstance(config, ResNetConfig) and config.stem != "imagenet":
        _small_stem(model, pool=config.stem == "small")
    if channels != 3:
        _replace_input_channels(model, channels)
    if config.weights is not None:
        load_weights(model, config, num_outputs)
    return model


def _options(config: VisionConfig, height: int, width: int) -> dict[str, Any]:
    """Return what the network's constructor wants to know beside its number of outputs."""
    if isinstance(config, AuxConfig):
        if config.name == "inception_v3":
            _check_inception_size(config, min(height, width))
        # torchvision's own weights expect the input scaling of the original networks; others were trained without.
        scale_input = config.weights is not None and is_download(config.weights)
        return {"aux_logits": config.aux_logits, "transform_input": scale_input, "init_weights": True}
    if config.name.startswith("vit_"):
        patch = int(config.name.rsplit("_", 1)[1])
        if height != width or height % patch:
            raise ConfigError(
                f"model.name: {config.name} needs square images whose side is a multiple of {patch}, "
                f"not {height}x{width}: resize the images or choose another model"
            )
        return {"image_size": height}
    if config.name.startswith("maxvit_"):
        return {"input_size": (height, width)}
    return {}


def _check_inception_size(config: AuxConfig, side: int) -> None:
    """Refuse images that shrink to nothing inside Inception v3, or before its auxiliary classifier's 5x5 kernel."""
    if config.aux_logits and side < 299:
        raise ConfigError(
            f"model.aux_logits: the auxiliary classifier of inception_v3 needs images of 299 px or more, not {side}: "
            "resize the images or set model.aux_logits=false"
        )
    if side < 75:
        raise ConfigError(f"model.name: inception_v3 needs images of 75 px or more, not {side}; choose another model")


def _small_stem(model: nn.Module, *, pool: bool) -> None:
    """Give a torchvision ResNet a 3x3 stride-1 first convolution and a 2x2 max-pool (or none)."""
    old = model.conv1
    assert isinstance(old, nn.Conv2d)
    model.conv1 = nn.Conv2d(old.in_channels, old.out_channels, 3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.MaxPool2d(2) if pool else nn.Identity()


def _replace_input_channels(model: nn.Module, channels: int) -> None:
    """Fit the first convolution to `channels` input channels; its new weights have the old ones' spread."""
    conv = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    old = conv.weight.detach()
    conv.in_channels = channels
    conv.weight = nn.Parameter(torch.randn(old.shape[0], channels, *old.shape[2:], device=old.device) * old.std())
