"""Initial weights of a GPT: a state dict of its own, or of Hugging Face's GPT-2, whose names and layout differ.

Owns: the names, and fitting to another vocabulary or context. Must not: read files (see `models.weights`).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mptrain.errors import ConfigError
from mptrain.models.weights import check_keys, is_outline, read_state

OPTION = "model.weights"

log = logging.getLogger(__name__)

_RENAMED = (
    (r"^transformer\.", ""),
    (r"^h\.", "blocks."),
    (r"^wte\.", "tokens."),
    (r"^wpe\.", "positions."),
    (r"^ln_f\.", "norm."),
    (r"^lm_head\.", "head."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.attn\.c_attn\.", ".attn.qkv."),
    (r"\.attn\.c_proj\.", ".attn.proj."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)
"""Hugging Face's names (transformers, models/gpt2/modeling_gpt2.py) -> ours."""
_CONV1D = re.compile(r"\.(c_attn|c_proj|c_fc)\.weight$")
"""Its `Conv1D` keeps weights as (inputs, outputs), `nn.Linear` as (outputs, inputs)."""
_MASK = re.compile(r"\.attn\.(masked_)?bias$")
"""Buffers of its older versions: the causal mask."""


def load_gpt2_weights(model: nn.Module, source: str) -> None:
    """Load the file `source` into the GPT `model`; a longer vocabulary or a shorter context is fitted, and logged.

    Raises ConfigError for weights of another network, DataError for a file that is missing or damaged.
    """
    if is_outline(model):
        return
    state = from_hugging_face(read_state(source, OPTION))
    state.setdefault("head.weight", state.get("tokens.weight", torch.empty(0)))  # tied, so some files leave it out
    wanted = model.state_dict()
    check_keys(OPTION, source, wanted.keys(), state.keys())
    for name, own in wanted.items():
        found = state[name].to(own.dtype)
        if own.shape != found.shape:
            found = _fitted(source, name, own, found)
        state[name] = found
    model.load_state_dict(state)


def from_hugging_face(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict of Hugging Face's GPT-2 under our names and layout; one of ours comes back as it is."""
    renamed = {}
    for key, value in state.items():
        if _MASK.search(key):
            continue
        name = key
        for pattern, replacement in _RENAMED:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value.T if _CONV1D.search(key) else value
    return renamed


def _fitted(source: str, name: str, own: Tensor, found: Tensor) -> Tensor:
    """Return `found` with the rows that `own` has more (new tokens) or without those it lacks (positions)."""
    rows, same_width = len(found), own.shape[1:] == found.shape[1:]
    if same_width and name in ("tokens.weight", "head.weight") and rows < len(own):
        log.warning("model.weights: %s has %d tokens, the model %d: the last start untrained", source, rows, len(own))
        return torch.cat([found, own[rows:]])
    if same_width and name == "positions.weight" and rows > len(own):
        log.warning("model.weights: %s has %d positions, the model takes the first %d", source, rows, len(own))
        return found[: len(own)]
    raise ConfigError(
        f"{OPTION}: {source} does not fit: {name} is {tuple(found.shape)} in the weights, {tuple(own.shape)} in "
        "the model; check model.name, data.vocab_size and model.context"
    )
