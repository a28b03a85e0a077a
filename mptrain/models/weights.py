"""Initial weights of a torchvision network or its backbone: from a file, or by torchvision's name through the network.

Owns: reading, checking and fitting a state dict. Must not: change the network's structure, or unpickle code.
"""

from __future__ import annotations

import logging
import pickle
import re
from collections.abc import Mapping, Set
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from mptrain.errors import ConfigError, DataError, first_line
from mptrain.torch_files import read_torch_file
from mptrain.torchvision_import import import_torchvision

if TYPE_CHECKING:
    from mptrain.models.configs import VisionConfig

log = logging.getLogger(__name__)


def is_download(weights: str) -> bool:
    """Say whether `weights` is spelled like torchvision's names (DEFAULT, IMAGENET1K_V1) and is no file."""
    return re.fullmatch(r"[A-Z][A-Z0-9_]*", weights) is not None and not Path(weights).exists()


def is_outline(model: nn.Module) -> bool:
    """Say whether `model` stands on the meta device: it is there for a plan, and no weights are read for it."""
    return any(parameter.is_meta for parameter in model.parameters())


def load_weights(model: nn.Module, config: VisionConfig, num_outputs: int) -> None:
    """Load `config.weights` into `model`, upcast to its dtype; log what was fitted (new head, grey input).

    Raises ConfigError for an unknown name or weights of another network, DataError for a file missing or damaged.
    """
    assert config.weights is not None
    if is_outline(model):
        return
    wanted = model.state_dict()
    state = _state(config.name, config.weights, "model.weights", wanted)
    if not any(map(_is_auxiliary, wanted)):
        state = {key: value for key, value in state.items() if not _is_auxiliary(key)}
    check_keys("model.weights", config.weights, wanted.keys(), state.keys())
    state = _sum_input_channels(config.weights, wanted, state)
    other = {key for key in wanted if wanted[key].shape != state[key].shape}
    head = {
        key for key in other if wanted[key].shape[0] == num_outputs and wanted[key].shape[1:] == state[key].shape[1:]
    }
    if other - head:
        key = sorted(other - head)[0]
        raise ConfigError(
            f"model.weights: {config.weights} does not fit {config.name}: {key} is {tuple(state[key].shape)} in the "
            f"weights, {tuple(wanted[key].shape)} in the model; check model.name, model.stem and the image channels"
        )
    if head:
        classes = {state[key].shape[0] for key in head}
        log.warning(
            "model.weights: %s has %s outputs, the model %d: %s starts untrained",
            config.weights, "/".join(map(str, sorted(classes))), num_outputs, ", ".join(sorted(head)),
        )  # fmt: skip
    model.load_state_dict({key: wanted[key] if key in head else state[key] for key in wanted})


def load_backbone_weights(backbone: nn.Module, name: str, source: str) -> None:
    """Load the weights `source` of the classification network `name` into `backbone`, its layers without the head.

    Raises ConfigError for an unknown name or weights of another network, DataError for a file missing or damaged.
    """
    if is_outline(backbone):
        return
    option, wanted = "model.backbone_weights", backbone.state_dict()
    layers = {
        key.removeprefix("features."): value  # what torchvision's MobileNets hold their layers in
        for key, value in _state(name, source, option, wanted).items()
        if not key.startswith(("fc.", "classifier."))
    }
    check_keys(option, source, wanted.keys(), layers.keys())
    other = [key for key in wanted if wanted[key].shape != layers[key].shape]
    if other:
        raise ConfigError(
            f"{option}: {source} does not fit {name}: {other[0]} is {tuple(layers[other[0]].shape)} in the weights, "
            f"{tuple(wanted[other[0]].shape)} in the model; check model.name"
        )
    backbone.load_state_dict(layers)


def _is_auxiliary(key: str) -> bool:
    """Say whether a weight belongs to an auxiliary classifier, as torchvision names them."""
    return key.lower().startswith("aux")


def _state(name: str, source: str, option: str, wanted: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return the state dict `source` of the network `name`; `option` is the config key to name in errors.

    BatchNorm's counters come from the state `wanted` where the file is of before there were any, as torchvision's first
    ResNet and VGG weights are.
    """
    state = _download(name, source, option) if is_download(source) else read_state(source, option)
    counters = {key: value for key, value in wanted.items() if key.endswith(".num_batches_tracked")}
    return state if state.keys() & counters.keys() else {**counters, **state}


def check_keys(option: str, source: str, wanted: Set[str], found: Set[str]) -> None:
    """Raise ConfigError where the weights of file `source` are called otherwise than the network's."""
    problems = []
    for word, keys in (("lacks", sorted(wanted - found)), ("also has", sorted(found - wanted))):
        if keys:
            problems.append(f"{word} {', '.join(keys[:3])}{f' and {len(keys) - 3} more' if len(keys) > 3 else ''}")
    if problems:
        raise ConfigError(f"{option}: {source} is of another network: it {' and '.join(problems)}; check model.name")


def _sum_input_channels(source: str, wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Fit a colour network's first convolution to grey images: summing equals repeating the grey channel thrice."""
    fitted = dict(state)
    for key, weight in wanted.items():
        if weight.dim() == 4 and weight.shape[1] == 1 and state[key].shape == (weight.shape[0], 3, *weight.shape[2:]):
            fitted[key] = state[key].float().sum(1, keepdim=True)
            log.warning("model.weights: %s is for colour images: %s is summed over its channels", source, key)
    return fitted


def _download(name: str, weights: str, option: str) -> Mapping[str, Tensor]:
    """Fetch torchvision's weights called `weights` for the network `name`, through torch's cache."""
    choices = import_torchvision("models").get_model_weights(name).__members__  # DEFAULT is one, an alias
    if weights not in choices:
        raise ConfigError(f"{option}: '{weights}' is neither a file nor one of {name}'s weights: {', '.join(choices)}")
    chosen = choices[weights]
    try:
        state: Mapping[str, Tensor] = chosen.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{option}: {weights} cannot be downloaded from {chosen.url} ({first_line(error)}); "
            "download it elsewhere and give the file's path"
        ) from error
    return state


def read_state(source: str, option: str) -> Mapping[str, Tensor]:
    """Read a state dict from a .safetensors file or, without running any code from it, a torch.save file.

    Raises DataError for a file that is missing, damaged, or holds something else.
    """
    path = Path(source).expanduser()
    if not path.is_file():
        raise DataError(
            f"{option}: there is no file {path.absolute()}; give a file, or a name of torchvision's such as DEFAULT"
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = read_torch_file(path)
    except Exception as error:  # safetensors and torch raise many types on damaged bytes, all meaning the same
        unsafe = isinstance(error, pickle.UnpicklingError) and "Weights only" in str(error)
        reason = "it holds more than tensors" if unsafe else first_line(error)
        raise DataError(f"{option}: {path} cannot be read as weights: {reason}; save model.state_dict()") from error
    if not isinstance(state, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        keys = f" with keys {', '.join(map(str, list(state)[:4]))}" if isinstance(state, Mapping) else ""
        raise DataError(
            f"{option}: {path} holds a {type(state).__name__}{keys}, no state dict; save model.state_dict()"
        )
    return state
