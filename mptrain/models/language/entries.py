"""Names and descriptions of the models for language modelling.

Owns: their registration. Must not: import torch at module level; each build names its module.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mptrain.interfaces import DataSpec
from mptrain.models.language.configs import Gpt2Config, GptConfig
from mptrain.registry import MODELS

if TYPE_CHECKING:
    from torch import nn

GPT2_SIZES: Mapping[str, tuple[int, int, int]] = {
    "gpt2-124m": (768, 12, 12),
    "gpt2-350m": (1024, 24, 16),
    "gpt2-774m": (1280, 36, 20),
    "gpt2-1.5b": (1600, 48, 25),
}
"""Width, depth and heads of the published models (Radford et al. 2019, table 2; Hugging Face's gpt2 .. gpt2-xl)."""


@MODELS.register("gpt", config=GptConfig, description="A GPT-2 of any size, for language modelling")
def _gpt(config: GptConfig, spec: DataSpec) -> nn.Module:
    from mptrain.models.language.gpt import build_gpt

    return build_gpt(config, spec, (config.width, config.depth, config.heads))


def _gpt2(config: Gpt2Config, spec: DataSpec) -> nn.Module:
    from mptrain.models.language.gpt import build_gpt

    return build_gpt(config, spec, GPT2_SIZES[config.name])


for _name, (_width, _depth, _heads) in GPT2_SIZES.items():
    MODELS.register(
        _name, config=Gpt2Config, description=f"GPT-2, {_depth} blocks of width {_width} with {_heads} heads"
    )(_gpt2)
