"""What tables made from a formula are like, known from their config alone. Must not: make them, or import torch."""

from __future__ import annotations

from mptrain.data.expected import expected_spec
from mptrain.data.tables.configs import Friedman1Config, LineConfig, SyntheticConfig
from mptrain.interfaces import DataSpec


@expected_spec.register
def _synthetic(config: SyntheticConfig) -> DataSpec:
    return DataSpec(config.input_shape, config.num_outputs, kind=config.kind)


@expected_spec.register
def _line(config: LineConfig) -> DataSpec:
    return DataSpec((len(config.w),), 1, kind="regression")


@expected_spec.register
def _friedman1(config: Friedman1Config) -> DataSpec:
    return DataSpec((config.num_features,), 1, kind="regression")
