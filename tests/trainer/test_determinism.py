"""A run is a function of its seed, whatever the config; its data are one of (seed, epoch, place), for any workers."""

import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mptrain.catalog import load_config
from mptrain.interfaces import Batch
from mptrain.trainer.build import Run, build_run
from mptrain.trainer.step import TrainStep
from tests.trainer.runs import same, weights

CONFIGS = sorted((Path(__file__).parents[2] / "configs").rglob("*.yaml"))
STEPS = 3


@pytest.fixture(autouse=True)
def _settings_kept() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)


def build(path: Path, *changes: str) -> Run:
    return build_run(load_config(path, ["data.batch_size=8", "device=cpu", *changes]).config)


def after_some_steps(path: Path) -> list[Tensor]:
    run = build(path, "precision=bf16", "train.deterministic=true")
    step = TrainStep(run.parts, lambda loss: loss)
    for batch in islice(run.train_loader.epoch(0), STEPS):
        step([batch])
    return weights(run)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_same_seed_gives_the_same_bits(path: Path) -> None:
    first = after_some_steps(path)
    torch.rand(7), np.random.rand(7), random.random()  # what went before must not matter
    assert same(first, after_some_steps(path))


def tensors(batch: Batch) -> list[Tensor]:
    parts = [part if isinstance(part, tuple) else (part,) for part in batch]
    return [tensor for part in parts for tensor in part]


def global_states() -> list[bytes]:
    numpy = np.random.get_state(legacy=False)
    return [torch.get_rng_state().numpy().tobytes(), repr(random.getstate()).encode(), repr(numpy).encode()]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_batches_depend_neither_on_workers_nor_on_global_states(path: Path) -> None:
    read = {}
    for workers in (0, 2):
        loader = build(path, f"data.num_workers={workers}", "data.cache=none").train_loader
        before = global_states()
        read[workers] = [tensor for batch in islice(loader.epoch(1), 1, STEPS) for tensor in tensors(batch)]
        assert global_states() == before
        random.random()
    assert same(read[0], read[2])
