"""What the command line asks a sweep for: files and `key=a,b` arguments -> configs, axes, and what is searched.

Owns: telling files, lists and searched ranges apart. Must not: validate configs (`plan.py` does).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mptrain.config.load import is_override
from mptrain.errors import ConfigError
from mptrain.sweep.plan import Axis, make_axes
from mptrain.sweep.sweep_file import SweepFile, read_sweep_file
from mptrain.sweep.values import Given, Range, read_argument

Space = Mapping[str, Range | tuple[str, ...]]
"""Key -> the range or the values that a search chooses from."""


@dataclass(frozen=True)
class Request:
    """A sweep as it was asked for."""

    configs: tuple[Path, ...]
    axes: tuple[Axis, ...]
    common: tuple[str, ...] = ()
    """Overrides of a sweep file, below all choices."""
    space: Space = field(default_factory=dict)
    """What is searched at each point of the axes; empty without a search."""


def read_request(
    arguments: Sequence[str], *, zipped: bool = False, max_steps: int | None = None, searches: bool = False
) -> Request:
    """Return what the arguments ask for; raise ConfigError with every problem found in them.

    Where it `searches`, ranges and lists are searched, but for keys of a ladder: `precision...` and `seed`.
    """
    problems: list[str] = []
    given: list[Given] = []
    for argument in filter(is_override, arguments):
        try:
            given.append(read_argument(argument))
        except ConfigError as error:
            problems += error.problems
    paths = [Path(argument) for argument in arguments if not is_override(argument)]
    file: SweepFile | None = None
    try:
        file = _sweep_file(paths)
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
    space = {item.key: _choices(item) for item in given if searches and _is_searched(item)}
    if searches and not space:
        raise ConfigError("--search: nothing to search; give a key a range, e.g. optimizer.lr=log:1e-4..1e-1")
    axes = make_axes(file, [item for item in given if item.key not in space], zipped=zipped, max_steps=max_steps)
    configs = tuple(Path(name) for name in file.configs or ()) if file is not None else tuple(paths)
    return Request(configs, tuple(axes), tuple(file.overrides) if file is not None else (), space)


def _sweep_file(paths: Sequence[Path]) -> SweepFile | None:
    if not paths:
        raise ConfigError("no config file given; name one, e.g. `mptrain sweep configs/mlp.yaml precision=fp32,bf16`")
    files = [read_sweep_file(path) for path in paths]
    if len(files) > 1 and any(files):
        raise ConfigError("a sweep file names its configs itself: give one sweep file, or configs only")
    return files[0]


def _is_searched(item: Given) -> bool:
    in_ladder = item.key == "seed" or item.key.split(".")[0] == "precision"
    return not in_ladder and (len(item.values) > 1 or isinstance(item.values[0], Range))


def _choices(item: Given) -> Range | tuple[str, ...]:
    """Return the one range, or all listed values."""
    if len(item.values) == 1 and isinstance(item.values[0], Range):
        return item.values[0]
    return item.listed()
