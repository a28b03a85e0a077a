"""Names and descriptions of the built-in tables and generated sets.

Owns: their registration. Must not: import torch or numpy at module level; each build names its module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mptrain.data.tables import expected as expected
from mptrain.data.tables.configs import ArraysConfig, CsvConfig, Friedman1Config, LineConfig, SyntheticConfig
from mptrain.registry import DATASETS

if TYPE_CHECKING:
    from mptrain.interfaces import DataSplits


@DATASETS.register("synthetic", config=SyntheticConfig, description="Learnable random data of any shape, seeded")
def _synthetic(config: SyntheticConfig, seed: int) -> DataSplits:
    from mptrain.data.tables import generated

    return generated.synthetic(config)


@DATASETS.register("line", config=LineConfig, description="y = w x + b + noise, the classroom regression, seeded")
def _line(config: LineConfig, seed: int) -> DataSplits:
    from mptrain.data.tables import generated

    return generated.line(config)


@DATASETS.register("friedman1", config=Friedman1Config, description="Friedman's first regression problem, seeded")
def _friedman1(config: Friedman1Config, seed: int) -> DataSplits:
    from mptrain.data.tables import generated

    return generated.friedman1(config)


@DATASETS.register("csv", config=CsvConfig, description="Your own table in a .csv or .tsv file")
def _csv(config: CsvConfig, seed: int) -> DataSplits:
    from mptrain.data.tables import csv_files

    return csv_files.load(config)


@DATASETS.register("arrays", config=ArraysConfig, description="Your own arrays in one .npz file")
def _arrays(config: ArraysConfig, seed: int) -> DataSplits:
    from mptrain.data.tables import arrays

    return arrays.load(config)
