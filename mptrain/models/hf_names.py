"""Networks of Hugging Face `transformers` by name (the extra `hf`), fitted to data that are token ids.

Owns: what is asked of transformers for each kind of data, and its refusals in one line. Must not: import transformers
before a network is built, run code that comes with weights, or fetch anything that was not asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mptrain.errors import CapabilityError, ConfigError, DataError, first_line
from mptrain.interfaces import BOS, EOS, PAD, DataSpec

if TYPE_CHECKING:
    from mptrain.models.configs import HfConfig

log = logging.getLogger(__name__)

AUTO_CLASSES: Mapping[str, str] = {
    "language_modelling": "AutoModelForCausalLM",
    "classification": "AutoModelForSequenceClassification",
    "translation": "AutoModelForSeq2SeqLM",
}
"""Kind of the data -> the class of transformers that chooses the network."""


def build_hf(config: HfConfig, spec: DataSpec) -> nn.Module:
    """Build the network called `config.name` (hf/...) in FP32 for token ids; its forward returns the logits.

    Raises ConfigError for data or options that do not suit, CapabilityError where transformers is missing, DataError
    when the configuration or the weights cannot be read.
    """
    if spec.kind not in AUTO_CLASSES or any(each.vocab_size is None for each in spec.inputs):
        raise ConfigError(
            f"model.name: {config.name} takes tokens, for {', '.join(AUTO_CLASSES)}; choose a dataset of texts"
        )
    transformers = _import_transformers(config.name)
    source = config.name.removeprefix("hf/")
    settings = _settings(transformers, config, source)
    _fit(settings, config, spec)
    auto_class = getattr(transformers, AUTO_CLASSES[spec.kind])
    info: Mapping[str, Any] = {}
    try:
        if config.pretrained and torch.get_default_device().type != "meta":  # a plan reads no weights
            network, info = auto_class.from_pretrained(
                source,
                config=settings,
                trust_remote_code=False,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # a new head; what else does not fit is refused below
                output_loading_info=True,
            )
        else:
            network = auto_class.from_config(settings, trust_remote_code=False)
    except OSError as error:
        raise DataError(f"model.name: the weights of {config.name} cannot be read ({first_line(error)})") from error
    except Exception as error:  # a network built of what does not fit it raises anything
        raise ConfigError(
            f"model.name: transformers cannot build {config.name} for {spec.kind}: {first_line(error)}"
        ) from error
    _check_loaded(info, config, spec)
    return HfNetwork(network.float(), pad_id=None if spec.kind == "language_modelling" else spec.pad_id)


class HfNetwork(nn.Module):
    """Calls a network of transformers with token ids, and returns its logits."""

    def __init__(self, network: nn.Module, *, pad_id: int | None) -> None:
        super().__init__()
        self.network = network
        self._pad_id = pad_id

    def forward(self, ids: Tensor, target: Tensor | None = None) -> Tensor:
        """Map ids (N, T) to logits (N, T, vocabulary), or (N, outputs) of a classifier.

        With the shifted target (N, T) of an encoder-decoder: to logits (N, T, vocabulary) of what follows each.
        """
        more: dict[str, Tensor] = {} if target is None else {"decoder_input_ids": target}
        if self._pad_id is not None:
            more["attention_mask"] = (ids != self._pad_id).long()
        logits: Tensor = self.network(input_ids=ids, **more).logits
        return logits


def _import_transformers(name: str) -> ModuleType:
    try:
        import transformers
    except ImportError as error:
        raise CapabilityError(f"model.name: {name} needs transformers: pip install 'mptrain[hf]'") from error
    module: ModuleType = transformers
    return module


def _settings(transformers: ModuleType, config: HfConfig, source: str) -> Any:
    """Return the network's configuration with the options of `config` in it."""
    try:
        settings = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"model.name: the configuration of {config.name} cannot be read ({first_line(error)}); after hf/ give a "
            "name on the hub, or a local folder with its config.json"
        ) from error
    for key, value in config.options.items():
        if not hasattr(settings, key):
            raise ConfigError(f"model.options: {config.name} ({settings.model_type}) has no '{key}'")
        try:
            setattr(settings, key, value)
        except Exception as error:  # what a configuration raises depends on its network and on the version
            reason = " ".join(str(error).split())
            raise ConfigError(
                f"model.options: {config.name} ({settings.model_type}) takes no {key}={value!r}: {reason}"
            ) from error
    return settings


def _check_loaded(info: Mapping[str, Any], config: HfConfig, spec: DataSpec) -> None:
    """Log which weights start untrained; raise ConfigError where other than a classifier's head does not fit."""
    mismatched = {name: (tuple(found), tuple(own)) for name, found, own in info.get("mismatched_keys", ())}
    head = (config.num_classes or spec.num_outputs,) if spec.kind == "classification" else None
    for name, (found, own) in sorted(mismatched.items()):
        if own[:1] != head or own[1:] != found[1:]:
            raise ConfigError(
                f"model.options: {name} is {found} in the weights of {config.name}, {own} in the model; leave out the "
                "option that changes its shape, or set model.pretrained=false"
            )
    untrained = sorted({*info.get("missing_keys", ()), *mismatched})
    if untrained:
        more = f" and {len(untrained) - 3} more" if len(untrained) > 3 else ""
        log.warning("model.pretrained: %s starts without %s%s", config.name, ", ".join(untrained[:3]), more)


def _fit(settings: Any, config: HfConfig, spec: DataSpec) -> None:
    """Give the configuration the data's vocabulary, outputs and special ids."""
    num_outputs = config.num_classes or spec.num_outputs
    sizes = {each.vocab_size or 0 for each in spec.inputs}
    vocab_size = max(sizes) if spec.kind == "classification" else max(*sizes, num_outputs)
    if len(sizes) > 1:
        raise ConfigError(
            f"model.name: {config.name} has one vocabulary, the data have {' and '.join(map(str, sorted(sizes)))} "
            "tokens; use one tokenizer for both sides"
        )
    if not config.pretrained:
        settings.vocab_size = vocab_size
    elif settings.vocab_size < vocab_size:
        raise ConfigError(
            f"model.pretrained: {config.name} knows {settings.vocab_size} tokens, the data have {vocab_size}; use its "
            "tokenizer.json for the data"
        )
    length = max(each.shape[0] for each in spec.inputs)
    longest = getattr(settings, "max_position_embeddings", None)  # networks without such embeddings take any length
    if longest is not None and length > longest:
        raise ConfigError(
            f"model.options: {config.name} has {longest} positions, the data's samples have {length} tokens; lower "
            "that, or set max_position_embeddings"
        )
    settings.use_cache = False  # not an argument: encoders of older versions take none of that name
    if spec.kind == "language_modelling":
        settings.pad_token_id = settings.bos_token_id = settings.eos_token_id = None  # no id of the data is special
    elif spec.kind == "classification":
        settings.pad_token_id, settings.num_labels = spec.pad_id, num_outputs
    else:
        settings.pad_token_id, settings.bos_token_id, settings.eos_token_id = PAD, BOS, EOS
        settings.decoder_start_token_id = BOS
