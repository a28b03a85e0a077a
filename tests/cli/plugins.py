"""Writes small plugins of a user's, good and bad, and returns the overrides that select them."""

from pathlib import Path

HEAD = """
import torch
from torch import nn
from mptrain.config.schema import DataConfig, ModelConfig, ScheduleConfig, TaskConfig
from mptrain.interfaces import Task
from mptrain.registry import DATASETS, MODELS, SCHEDULES, TASKS
"""
ENTRY = (
    "class C({base}): ...\n@{kind}.register('plug', config=C, description='x')\ndef build(config, *rest):\n    {body}\n"
)
NET = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.calls = nn.Linear(8, 4), 0
    def forward(self, x):
        self.calls += 1
        {body}
        return self.layer(x)
"""
TASK = """
class Metrics:
    def update(self, outputs, batch): pass
    def compute(self): return {metrics}
class T({base}):
    main_metric, higher_is_better = 'score', True
    def loss(self, model, batch): return model(batch.inputs).square().mean()
    def metrics(self, device): return Metrics()
    def summary(self, model, splits): return {summary}
"""


def plugin(name: str, text: str) -> list[str]:
    """Write a plugin module and return the overrides that import it."""
    Path(f"{name}.py").write_text(HEAD + text)
    return [f"plugins=[{name}]"]


def model(name: str, body: str, before: str = "") -> list[str]:
    entry = ENTRY.format(base="ModelConfig", kind="MODELS", body=body)
    return [*plugin(name, before + entry), "model=plug"]


def task(name: str, metrics: str, summary: str = "None", *, base: str = "Task", more: str = "") -> list[str]:
    """Write a task; `base` is what it derives from, `more` what follows in the class's body."""
    entry = ENTRY.format(base="TaskConfig", kind="TASKS", body="return T()")
    body = TASK.format(metrics=metrics, summary=summary, base=base) + more
    return [*plugin(name, f"{body}\n{entry}"), "task=plug"]


def schedule(name: str, factor: str) -> list[str]:
    entry = ENTRY.format(base="ScheduleConfig", kind="SCHEDULES", body=f"return lambda step: {factor}")
    return [*plugin(name, entry), "schedule=plug"]


def data(name: str, body: str) -> list[str]:
    return [*plugin(name, ENTRY.format(base="DataConfig", kind="DATASETS", body=body)), "data=plug"]
