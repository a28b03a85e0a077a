"""Data made from a seed: learnable clouds or a linear teacher of any shape, the classroom line, Friedman's problem.

Owns: their formulas. Must not: read files, or use any random state but its own generator.

classification   x = (c[y] + noise * n) / sqrt(1 + noise^2), c and n standard normal, y uniform over classes
regression       y = W x + noise * n, W normal with variance 1 / inputs, x and n standard normal
line             y = w x + b + noise * n, x uniform in -1..1, computed in FP64 and stored in FP32
friedman1        y = 10 sin(pi x0 x1) + 20 (x2 - 0.5)^2 + 10 x3 + 5 x4 + noise * n, x uniform in 0..1, likewise
                 (Friedman 1991, Multivariate Adaptive Regression Splines; sklearn.datasets.make_friedman1)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mptrain.data.tables.configs import Friedman1Config, LineConfig, SyntheticConfig
from mptrain.data.transforms import as_float32
from mptrain.errors import OutOfMemoryError
from mptrain.interfaces import DataSpec, DataSplits, InMemory


def synthetic(config: SyntheticConfig) -> DataSplits:
    """Return FP32 inputs (N, *input_shape) and class or float targets; raise OutOfMemoryError when they do not fit."""
    generator = torch.Generator().manual_seed(config.seed)
    width = math.prod(config.input_shape)
    try:
        signal = torch.randn(config.num_outputs, width, generator=generator)
        make = _clouds if config.kind == "classification" else _teacher
        train = make(config, config.num_train, signal, generator)
        test = make(config, config.num_test, signal, generator)
    except (RuntimeError, MemoryError) as error:
        size = (config.num_train + config.num_test) * width * 4 / 1e9
        raise OutOfMemoryError(
            f"data.num_train: {size:.0f} GB of synthetic data do not fit in memory; lower num_train or input_shape"
        ) from error
    spec = DataSpec(config.input_shape, config.num_outputs, kind=config.kind)
    return DataSplits(spec, train, test, _identity(config))


def _clouds(config: SyntheticConfig, count: int, signal: Tensor, generator: torch.Generator) -> InMemory:
    targets = torch.randint(config.num_outputs, (count,), generator=generator)
    inputs = torch.randn(count, signal.shape[1], generator=generator).mul_(config.noise)
    inputs.add_(signal[targets]).div_(math.sqrt(1 + config.noise**2))
    return InMemory(inputs.view(count, *config.input_shape), targets, as_float32, augments=False)


def _teacher(config: SyntheticConfig, count: int, signal: Tensor, generator: torch.Generator) -> InMemory:
    inputs = torch.randn(count, signal.shape[1], generator=generator)
    weight = signal / math.sqrt(signal.shape[1])
    targets = inputs @ weight.T + config.noise * torch.randn(count, len(weight), generator=generator)
    return InMemory(inputs.view(count, *config.input_shape), targets, as_float32, augments=False)


def line(config: LineConfig) -> DataSplits:
    """Return FP32 inputs (N, features) and targets (N, 1)."""
    generator = torch.Generator().manual_seed(config.seed)
    w = torch.tensor(config.w, dtype=torch.float64)

    def split(count: int) -> InMemory:
        x = torch.rand(count, len(w), generator=generator, dtype=torch.float64) * 2 - 1
        noise = config.noise * torch.randn(count, generator=generator, dtype=torch.float64)
        y = x @ w + config.b + noise
        return InMemory(x.float(), y.float().unsqueeze(1), as_float32, augments=False)

    spec = DataSpec((len(w),), 1, kind="regression")
    return DataSplits(spec, split(config.num_train), split(config.num_test), _identity(config))


def friedman1(config: Friedman1Config) -> DataSplits:
    """Return FP32 inputs (N, features) and targets (N, 1)."""
    generator = torch.Generator().manual_seed(config.seed)

    def split(count: int) -> InMemory:
        x = torch.rand(count, config.num_features, generator=generator, dtype=torch.float64)
        noise = config.noise * torch.randn(count, generator=generator, dtype=torch.float64)
        y = 10 * torch.sin(math.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4] + noise
        return InMemory(x.float(), y.float().unsqueeze(1), as_float32, augments=False)

    spec = DataSpec((config.num_features,), 1, kind="regression")
    return DataSplits(spec, split(config.num_train), split(config.num_test), _identity(config))


def _identity(config: SyntheticConfig | LineConfig | Friedman1Config) -> dict[str, object]:
    """Return what the data are made from; how they are loaded does not change them."""
    return config.model_dump(mode="json", include={"name", *type(config).__annotations__})
