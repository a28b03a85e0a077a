"""timm's networks by name (the extra `timm`), fitted to the data: outputs, input channels, image size.

Owns: what is asked of timm, and its refusals in one line. Must not: import timm before a network is built, or fetch
anything that was not asked for.
"""

from __future__ import annotations

import difflib
from types import ModuleType
from typing import TYPE_CHECKING, Any

from torch import nn

from mptrain.errors import CapabilityError, ConfigError, DataError, first_line
from mptrain.interfaces import DataSpec
from mptrain.models.image_shape import image_shape
from mptrain.models.weights import is_download, is_outline, load_weights

if TYPE_CHECKING:
    from mptrain.models.configs import TimmConfig

PRETRAINED = "DEFAULT"
"""What `weights` is called when timm itself shall fetch them."""


def build_timm(config: TimmConfig, spec: DataSpec) -> nn.Module:
    """Build the network called `config.name` (timm/...), (N, C, H, W) -> (N, outputs), in FP32.

    Raises ConfigError for a name or weights that timm does not have and for data that do not suit, CapabilityError
    where timm is missing, DataError when the weights are missing or damaged.
    """
    timm = _import_timm(config.name)
    name = config.name.removeprefix("timm/")
    _check_name(timm, name)
    channels, height, width = image_shape(config.name, spec)
    num_outputs = config.num_classes or spec.num_outputs
    about = timm.models.get_pretrained_cfg(name)
    options: dict[str, Any] = {"num_classes": num_outputs, "in_chans": channels}
    if about.fixed_input_size:
        options["img_size"] = (height, width)
    try:
        model: nn.Module = timm.create_model(name, **options)
    except (RuntimeError, ValueError, TypeError, AssertionError, ArithmeticError) as error:
        raise ConfigError(
            f"model.name: {config.name} cannot take images of {spec.input_shape} ({first_line(error)}); resize the "
            "images or choose another model"
        ) from error
    if config.weights is None:
        return model
    if not is_download(config.weights):
        load_weights(model, config, num_outputs)
        return model
    if config.weights != PRETRAINED or not about.has_weights:
        choices = ", ".join(timm.list_pretrained(f"{name.split('.')[0]}.*")[:8]) or "none"
        raise ConfigError(
            f"model.weights: '{config.weights}' is no file, and {config.name} has no such weights; give {PRETRAINED}, "
            f"and choose the weights in the name: {choices}"
        )
    return model if is_outline(model) else _pretrained(timm, config, options)


def _import_timm(name: str) -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise CapabilityError(f"model.name: {name} needs timm: pip install 'mptrain[timm]'") from error
    module: ModuleType = timm
    return module


def _check_name(timm: ModuleType, name: str) -> None:
    """Raise ConfigError unless timm has the network, and its weights where the name goes on with them (.tag)."""
    network, dot, tag = name.partition(".")
    if not timm.is_model(network):
        known = timm.list_models()
    elif dot and name not in timm.list_pretrained(f"{network}.*"):
        known = timm.list_pretrained(f"{network}.*")
    else:
        return
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6) or (known[:3] if tag and len(known) < 50 else [])
    hint = f" (did you mean {' or '.join(f'timm/{each}' for each in near)}?)" if near else ""
    raise ConfigError(
        f"model.name: timm {timm.__version__} has no network '{name}'{hint}; timm.list_models() lists all"
    )


def _pretrained(timm: ModuleType, config: TimmConfig, options: dict[str, Any]) -> nn.Module:
    try:
        model: nn.Module = timm.create_model(config.name.removeprefix("timm/"), pretrained=True, **options)
    except Exception as error:  # what timm's downloads raise depends on what is missing: network, hub, file
        raise DataError(
            f"model.weights: the weights of {config.name} cannot be downloaded ({first_line(error)}); download them "
            "elsewhere and give the file's path"
        ) from error
    return model
