"""Names, descriptions and Config classes of the built-in tasks.

Owns: their registration. Must not: import torch at module level; each build names its module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mptrain.config.schema import TaskConfig
from mptrain.config.section import Fraction
from mptrain.errors import ConfigError
from mptrain.interfaces import DataSpec
from mptrain.registry import TASKS

if TYPE_CHECKING:
    from mptrain.interfaces import Task


class ClassificationConfig(TaskConfig):
    """Cross-entropy over classes."""

    label_smoothing: Fraction = 0.0
    """Share of the target spread evenly over all classes in training; the reported test loss has none."""


class RegressionConfig(TaskConfig):
    """Mean squared error."""


@TASKS.register(
    "classification", config=ClassificationConfig, description="Cross-entropy over classes; accuracy, F1, top-5"
)
def _classification(config: ClassificationConfig, spec: DataSpec) -> Task:
    from mptrain.tasks.classification import Classification

    _check_kind(config, spec)
    return Classification(spec.num_outputs, config.label_smoothing, spec.class_names)


@TASKS.register("regression", config=RegressionConfig, description="Mean squared error; MSE, R2")
def _regression(config: RegressionConfig, spec: DataSpec) -> Task:
    from mptrain.tasks.regression import Regression

    _check_kind(config, spec)
    return Regression(spec.num_outputs)


def _check_kind(config: TaskConfig, spec: DataSpec) -> None:
    if config.name != spec.kind:
        raise ConfigError(
            f"task.name: '{config.name}', but the dataset's targets are for {spec.kind}; set task={spec.kind}"
        )
