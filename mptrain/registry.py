"""Named things a config can select: each with a one-line description, its own Config class, and how to build it.

Owns: the `Registry` type, the five registries, and loading of user plugins. Must not: import torch or any entry;
built-in entries register themselves from `mptrain.models`, `mptrain.data`, `mptrain.tasks` and `mptrain.optim`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic_core import PydanticCustomError

from mptrain.config.schema import DataConfig, EntryConfig, ModelConfig, OptimizerConfig, ScheduleConfig, TaskConfig
from mptrain.config.wording import shorten
from mptrain.errors import UnknownNameError

if TYPE_CHECKING:
    from torch import nn

    from mptrain.interfaces import DataSplits, Schedule, SkippingOptimizer, Task

C = TypeVar("C", bound=EntryConfig)
B = TypeVar("B")


@dataclass(frozen=True)
class Entry(Generic[C, B]):
    """One registered name."""

    name: str
    description: str
    config: type[C]
    build: Callable[..., B]
    flags: frozenset[str]


class Registry(Generic[C, B]):
    """Names of one kind; a duplicate raises, an unknown name lists what exists.

    A name that ends in `/*` is a family: `timm/*` takes every name that begins with `timm/`.

    `C` is the base of the entries' Config classes, `B` what their `build` returns.
    """

    def __init__(self, kind: str, plural: str, base: type[C]) -> None:
        self.kind, self.plural, self.base = kind, plural, base
        self._entries: dict[str, Entry[C, B]] = {}

    def register(
        self, name: str, *, config: type[C], description: str, flags: tuple[str, ...] = ()
    ) -> Callable[[Callable[..., B]], Callable[..., B]]:
        """Decorate a build function to make it available under `name`.

        Raises ValueError on a duplicate name and TypeError on a Config class that is not one of this kind.
        """
        if name in self._entries:
            raise ValueError(f"{self.kind} '{name}' is already registered; choose another name")
        if not issubclass(config, self.base):
            raise TypeError(f"{self.kind} '{name}': config {config.__name__} must derive from {self.base.__name__}")

        def decorate(build: Callable[..., B]) -> Callable[..., B]:
            self._entries[name] = Entry(name, description, config, build, frozenset(flags))
            return build

        return decorate

    def get(self, name: str) -> Entry[C, B]:
        """Return the entry called `name`; raise UnknownNameError with the nearest names."""
        found = self.find(name)
        if found is not None:
            return found
        near = difflib.get_close_matches(name[:100], self._entries, n=3, cutoff=0.6)
        hint = f" (did you mean {' or '.join(repr(n) for n in near)}?)" if near else ""
        raise UnknownNameError(
            f"{shorten(name)!r} is not a known {self.kind}{hint}; `mptrain ls {self.plural}` lists them"
        )

    def find(self, name: str) -> Entry[C, B] | None:
        """Return the entry called `name`, or the family that takes it; None where there is neither."""
        family, slash, member = name.partition("/")
        if not slash:
            return self._entries.get(name)
        return self._entries.get(f"{family}/*") if member not in ("", "*") else None

    def config_type(self, name: str) -> type[C]:
        """Return the Config class that validates the section selecting `name`.

        An unknown name raises pydantic's own error type, so that validation collects it with all other problems.
        """
        try:
            return self.get(name).config
        except UnknownNameError as error:
            raise PydanticCustomError("unknown_name", "{text}", {"text": str(error)}) from None

    def build(self, config: C, *args: Any) -> B:
        """Build what `config` selects."""
        return self.get(config.name).build(config, *args)

    def __iter__(self) -> Iterator[Entry[C, B]]:
        return iter(sorted(self._entries.values(), key=lambda entry: entry.name))

    def __len__(self) -> int:
        return len(self._entries)


MODELS: Registry[ModelConfig, nn.Module] = Registry("model", "models", ModelConfig)
"""build(config, spec: DataSpec) -> nn.Module in FP32 on the CPU."""
DATASETS: Registry[DataConfig, DataSplits] = Registry("dataset", "datasets", DataConfig)
"""build(config, seed: int) -> DataSplits."""
TASKS: Registry[TaskConfig, Task] = Registry("task", "tasks", TaskConfig)
"""build(config, spec: DataSpec) -> Task."""
OPTIMIZERS: Registry[OptimizerConfig, SkippingOptimizer] = Registry("optimizer", "optimizers", OptimizerConfig)
"""build(config, param_groups, lr: 0-d tensor on the device) -> SkippingOptimizer."""
SCHEDULES: Registry[ScheduleConfig, Schedule] = Registry("schedule", "schedules", ScheduleConfig)
"""build(config, total_steps: int) -> Schedule, a pure function from applied step to a factor of the peak rate."""
