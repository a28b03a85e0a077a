"""Names and descriptions of the models for transcription and keywords from speech; keywords take any image network too.

Owns: their registration. Must not: import torch at module level; each build names its module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mptrain.interfaces import DataSpec
from mptrain.models.speech.configs import ConformerConfig, TcResNetConfig
from mptrain.registry import MODELS

if TYPE_CHECKING:
    from torch import nn


@MODELS.register(
    "conformer", config=ConformerConfig, description="Conformer encoder (attention and convolution) for CTC"
)
def _conformer(config: ConformerConfig, spec: DataSpec) -> nn.Module:
    from mptrain.models.speech import conformer

    return conformer.conformer(config, spec)


@MODELS.register(
    "tc_resnet", config=TcResNetConfig, description="Temporal convolution ResNet for keywords: small and quick"
)
def _tc_resnet(config: TcResNetConfig, spec: DataSpec) -> nn.Module:
    from mptrain.models.speech import tc_resnet

    return tc_resnet.tc_resnet(config, spec)
