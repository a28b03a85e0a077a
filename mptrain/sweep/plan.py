"""What a sweep runs: every combination as a validated config with a folder of its own, before anything starts.

Owns: the order of the runs, their labels and ids. Must not: start anything, or look into run folders (`folders.py`).

    axes        each a tuple of choices: a variant, a value of a key, values of several keys that go together
    runs        one for each config and combination; the last axis varies fastest
    run id      precision-bf16_seed-0: every choice of a run, so that the same choice always finds its folder
"""

from __future__ import annotations

import hashlib
import itertools
import math
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mptrain.catalog import load_config, to_yaml
from mptrain.config.emit import flow
from mptrain.config.schema import RunConfig
from mptrain.errors import ConfigError
from mptrain.sweep.sweep_file import SweepFile, unequal
from mptrain.sweep.values import MAX_RUNS, Given

_LONGEST_ID = 70


@dataclass(frozen=True)
class Choice:
    """One point of an axis."""

    overrides: tuple[str, ...]
    name: str | None = None
    """That of a variant; None: it is called after its overrides."""

    @property
    def label(self) -> str:
        """What a table calls it."""
        return self.name or " ".join(self.overrides)

    @property
    def slug(self) -> str:
        """What a folder calls it: letters, digits, dots, dashes, underscores."""
        return self.name or "_".join(_slug(text) for text in self.overrides)


Axis = tuple[Choice, ...]


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep: an ordinary `mptrain run`."""

    number: int
    """From 1."""
    label: str
    """What sets it apart from the sweep's other runs."""
    config_path: Path
    overrides: tuple[str, ...]
    config: RunConfig
    output_dir: Path
    run_id: str

    @property
    def run_dir(self) -> Path:
        """Its folder."""
        return self.output_dir / self.config.name / self.run_id

    def arguments(self) -> list[str]:
        """Return the arguments of the `mptrain` command that it is."""
        path = str(self.config_path)
        path = f"./{path}" if path.startswith("-") else path  # which would be an option
        place = ["--output-dir", str(self.output_dir), "--run-id", self.run_id, "--resume", "auto", "--quiet"]
        return ["run", path, *self.overrides, *place]

    def command(self) -> list[str]:
        """Return the whole command, run by this process's Python."""
        # With -m, Python looks for modules in the current folder first, where a user's random.py would hide the
        # standard library's; -P prevents that, unless this process was started so itself.
        looks_here_first = sys.path[:1] in ([""], [str(Path.cwd())])
        return [sys.executable, *([] if looks_here_first else ["-P"]), "-m", "mptrain", *self.arguments()]


@dataclass(frozen=True)
class Plan:
    """Every run of a sweep, in order."""

    runs: tuple[PlannedRun, ...]
    notices: tuple[str, ...] = ()
    """What was merged."""


def make_axes(
    file: SweepFile | None, given: Sequence[Given], *, zipped: bool = False, max_steps: int | None = None
) -> list[Axis]:
    """Return the axes of a sweep file with the command line's on top: a key given there replaces the file's.

    Raises ConfigError with every problem found.
    """
    repeated = [key for key, count in Counter(item.key for item in given).items() if count > 1]
    problems = [f"{key} is given more than once; list its values as {key}=a,b" for key in repeated]
    listed: dict[str, tuple[str, ...]] = {}
    for item in given:
        try:
            listed[item.key] = item.listed()
        except ConfigError as error:
            problems += error.problems
    lengths = {key: len(values) for key, values in listed.items() if len(values) > 1}
    if zipped and len(set(lengths.values())) > 1:
        problems.append(f"--zip: {unequal(lengths)}")
    if problems:
        raise ConfigError(problems)
    axes = _file_axes(file, set(listed)) if file is not None else []
    if zipped and lengths:
        axes.append(_zip({key: listed.pop(key) for key in lengths}))
    axes += [_axis(key, values) for key, values in listed.items()]
    if max_steps is not None:
        axes.append(_axis("train.stop_at_step", (str(max_steps),)))
    return axes


def _file_axes(file: SweepFile, replaced: set[str]) -> list[Axis]:
    axes = []
    if file.variants:
        axes.append(tuple(Choice(tuple(overrides), name) for name, overrides in file.variants.items()))
    together = {key: tuple(map(flow, values)) for key, values in file.zip.items() if key not in replaced}
    if together:
        axes.append(_zip(together))
    axes += [_axis(key, tuple(map(flow, values))) for key, values in file.grid.items() if key not in replaced]
    if file.seeds is not None and "seed" not in replaced:
        axes.append(_axis("seed", tuple(map(str, range(file.seeds)))))
    return axes


def _axis(key: str, values: Sequence[str]) -> Axis:
    return tuple(Choice((f"{key}={value}",)) for value in values)


def _zip(lists: dict[str, tuple[str, ...]]) -> Axis:
    rows = zip(*lists.values(), strict=True)
    return tuple(Choice(tuple(f"{key}={value}" for key, value in zip(lists, row, strict=True))) for row in rows)


def make_plan(
    configs: Sequence[Path], axes: Sequence[Axis], *, common: Sequence[str] = (), output_dir: Path = Path("runs")
) -> Plan:
    """Return every run, all validated; raise ConfigError with every problem, each named by its combination.

    `common` overrides lie below all choices, and are no part of the ids.
    """
    count = len(configs) * math.prod(len(axis) for axis in axes)
    if count > MAX_RUNS:
        raise ConfigError(f"{count:,} combinations; a sweep may have at most {MAX_RUNS:,}")
    runs: list[PlannedRun] = []
    problems: dict[str, list[str]] = {}
    for path, choices in itertools.product(configs, itertools.product(*axes)):
        label = _label(path, choices, configs, axes)
        overrides = (*common, *(text for choice in choices for text in choice.overrides))
        try:
            config = load_config(path, overrides).config
        except ConfigError as error:
            for problem in error.problems:
                problems.setdefault(problem, []).append(label)
            continue
        run_id = _short("_".join(choice.slug for choice in choices) or "run")
        runs.append(PlannedRun(len(runs) + 1, label, path, overrides, config, output_dir, run_id))
    if problems:
        raise ConfigError(list(_named(problems, count)))
    runs, notices = _merged(runs)
    return Plan(tuple(_with_unique_folders(runs)), tuple(notices))


def _label(path: Path, choices: Sequence[Choice], configs: Sequence[Path], axes: Sequence[Axis]) -> str:
    """Return what sets a run apart: its choices where there was one."""
    parts = [choice.label for choice, axis in zip(choices, axes, strict=True) if len(axis) > 1 or choice.name]
    if len(configs) > 1 or not parts:
        parts.insert(0, path.stem)
    return " ".join(parts)


def _named(problems: dict[str, list[str]], count: int) -> Iterator[str]:
    """Yield each problem once, with the combination that has it where others have not."""
    for problem, labels in problems.items():
        if len(labels) == count:
            yield problem
        else:
            yield f"{labels[0]}{f' (and {len(labels) - 1} more)' if len(labels) > 1 else ''}: {problem}"


def _merged(runs: Sequence[PlannedRun]) -> tuple[list[PlannedRun], list[str]]:
    """Leave out runs whose whole config is that of an earlier one; return the others and a line for each left out."""
    kept: dict[str, PlannedRun] = {}
    notices = []
    for run in runs:
        first = kept.setdefault(to_yaml(run.config), run)
        if first is not run:
            notices.append(f"{run.label} is the same run as {first.label}: it runs once")
    return [replace(run, number=number) for number, run in enumerate(kept.values(), 1)], notices


def _with_unique_folders(runs: Sequence[PlannedRun]) -> Iterator[PlannedRun]:
    """Add a hash to the ids of runs that would share a folder."""
    folders = Counter(run.run_dir for run in runs)
    for run in runs:
        if folders[run.run_dir] > 1:
            run = replace(run, run_id=f"{run.run_id}-{_hash(f'{run.config_path} {run.overrides}')}")
        yield run


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-") or "empty"


def _short(run_id: str) -> str:
    run_id = run_id.lstrip("._-") or "run"
    return run_id if len(run_id) <= _LONGEST_ID else f"{run_id[: _LONGEST_ID - 9]}-{_hash(run_id)}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
