"""Names and descriptions of the models for transcription from speech; keywords take any image network.

Owns: their registration. Must not: import torch at module level; each build names its module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mptrain.interfaces import DataSpec
from mptrain.models.speech.configs import ConformerConfig
from mptrain.registry import MODELS

if TYPE_CHECKING:
    from torch import nn


@MODELS.register(
    "conformer", config=ConformerConfig, description="Conformer encoder (attention and convolution) for CTC"
)
def _conformer(config: ConformerConfig, spec: DataSpec) -> nn.Module:
    from mptrain.models.speech import conformer

    return conformer.conformer(config, spec)
