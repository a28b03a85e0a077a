"""What every image network needs of the data: images. Must not: import torch."""

from __future__ import annotations

from mptrain.errors import ConfigError
from mptrain.interfaces import DataSpec


def image_shape(name: str, spec: DataSpec) -> tuple[int, int, int]:
    """Return (channels, height, width) of the data for the network `name`; raise ConfigError where it is no images."""
    if len(spec.input_shape) != 3:
        raise ConfigError(
            f"model.name: {name} needs images (channels, height, width); the data has shape {spec.input_shape}: "
            "choose an image dataset, or model.name=mlp"
        )
    channels, height, width = spec.input_shape
    return channels, height, width
