"""Config classes of the tables and generated sets: every option, its default, its one-line meaning.

Owns: the defaults. Must not: import torch, or know how anything is built.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Strict, model_validator

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


class Friedman1Config(DataConfig):
    """Friedman's first regression problem: five numbers matter, in sines, squares and products; the others do not."""

    num_features: Annotated[int, Field(ge=5)] = 10
    """Numbers per sample, uniform in 0..1; the first five matter."""
    noise: NonNegativeFloat = 1.0
    """Standard deviation of the noise on y, whose own is 4.9."""
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


class CsvConfig(DataConfig):
    """A table in a text file whose first line names the columns: numbers, and words that name categories.

    Numbers are brought to mean 0 and standard deviation 1 over the training rows, regression targets too (mse and
    predictions are in these units); each category becomes a column of 0 and 1. on_error=skip leaves out bad rows.
    """

    path: str
    """The .csv or .tsv file, UTF-8, relative to the current folder."""
    target: str | Annotated[tuple[str, ...], Strict(False), Field(min_length=1)]
    """Column to learn; a list for a regression with several."""
    kind: Literal["classification", "regression"]
    """What is learned: one of the values that the target column has, or numbers."""
    ignore: Annotated[tuple[str, ...], Strict(False)] = ()
    """Columns to leave out, such as row numbers and names."""
    categorical: Annotated[tuple[str, ...], Strict(False)] = ()
    """Columns whose numbers are names of categories; columns without any number always are categorical."""
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    """What separates values; null: a tab in .tsv files, else a comma."""
    test_path: str | None = None
    """File with the test rows; null sets rows of `path` aside."""
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the rows that become the test split, where there is no test_path."""
    seed: NonNegativeInt = 0
    """Seed of that choice; the run's own seed does not change it."""

    @property
    def targets(self) -> list[str]:
        """Return the columns to learn."""
        return [self.target] if isinstance(self.target, str) else list(self.target)

    @model_validator(mode="after")
    def _one_class(self) -> CsvConfig:
        if self.kind == "classification" and len(self.targets) > 1:
            raise ValueError(f"a classification learns one target column, not {len(self.targets)}")
        return self
