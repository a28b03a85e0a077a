"""Config classes of the tables and generated sets: every option, its default, its one-line meaning.

Owns: the defaults. Must not: import torch, or know how anything is built.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Strict

from mptrain.config.schema import DataConfig
from mptrain.config.section import NonNegativeFloat, NonNegativeInt, PositiveInt


class SyntheticConfig(DataConfig):
    """Random data that can be learned: a Gaussian cloud per class, or a noisy linear teacher."""

    kind: Literal["classification", "regression"] = "classification"
    """What is learned."""
    input_shape: Annotated[tuple[PositiveInt, ...], Strict(False), Field(min_length=1)] = (3, 32, 32)
    """Shape of one sample; [3, 224, 224] measures ImageNet networks (512 samples then take 0.3 GB)."""
    num_outputs: PositiveInt = 10
    """Classes, or the width of the regression target."""
    num_train: PositiveInt = 1024
    """Training samples."""
    num_test: PositiveInt = 256
    """Test samples."""
    noise: NonNegativeFloat = 1.0
    """Standard deviation of the noise relative to the signal; more is harder."""
    seed: NonNegativeInt = 0
    """Seed of the data; the run's own seed does not change them."""


class LineConfig(DataConfig):
    """y = w x + b + noise, x uniform in -1..1: the classroom example."""

    w: Annotated[tuple[float, ...], Strict(False), Field(min_length=1)] = (2.0,)
    """True weight of each feature."""
    b: float = 0.5
    """True bias."""
    noise: NonNegativeFloat = 0.1
    """Standard deviation of the noise on y."""
    num_train: PositiveInt = 1024
    """Training samples."""
    num_test: PositiveInt = 256
    """Test samples."""
    seed: NonNegativeInt = 0
    """Seed of the data; the run's own seed does not change them."""


class ArraysConfig(DataConfig):
    """Your own arrays in one .npz file."""

    path: str
    """File with {train,test}_{inputs,targets}, relative to the current folder; integer targets are classes, float ones
    mean regression."""
