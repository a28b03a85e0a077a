"""Run experiments, each a config in several variants and seeds: `python -m recipes.compare recipes/X/experiment.yaml`.

Each run is a process of its own; what has run already is not run again, so an interrupted experiment goes on where it
stopped. Writes `<experiment>-table.md` and `<experiment>-results.json` into the output folder.

Owns: the experiment file and the running. Must not: train, or know what the variants mean (`recipes/table.py` puts the
results together).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError

from mptrain.catalog import load_config, to_yaml
from mptrain.config.load import is_override
from mptrain.config.schema import RunConfig
from mptrain.config.section import PositiveInt, Section
from mptrain.errors import ConfigError, MptrainError
from recipes.table import markdown, summarise

UNFINISHED = {"interrupted", "preempted", "crashed"}
"""Endings that are worth another try."""


class Experiment(Section):
    """What an experiment file holds."""

    config: str
    """The run that all variants start from, relative to the experiment file."""
    seeds: PositiveInt = 3
    """Runs per variant, with seeds 0, 1, ..."""
    variants: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")], list[str]]
    """Name of each variant, a plain folder name -> its overrides, as on the command line of `mptrain run`."""


@dataclass(frozen=True)
class PlannedRun:
    """One run of an experiment."""

    variant: str
    seed: int
    config_path: Path
    overrides: tuple[str, ...]
    config: RunConfig
    run_dir: Path

    def finished_result(self) -> dict[str, Any] | None:
        """Return the result of this run if it has ended; raise ConfigError where the folder holds another run."""
        if not (self.run_dir / "result.json").exists():
            return None
        if (self.run_dir / "config.yaml").read_text() != to_yaml(self.config):
            raise ConfigError(f"{self.run_dir} holds a run of another config; remove it, or choose another --out")
        result: dict[str, Any] = json.loads((self.run_dir / "result.json").read_text())
        return None if result["status"] in UNFINISHED else result

    def run(self, threads: int) -> dict[str, Any]:
        """Train in a process of its own and return its result; raise MptrainError where it leaves none."""
        result = self.finished_result()
        if result is None:
            command = [sys.executable, "-m", "mptrain", "run", str(self.config_path), *self.overrides, "--quiet"]
            command += ["--output-dir", str(self.run_dir.parents[1]), "--run-id", self.run_dir.name, "--resume", "auto"]
            environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            result = self.finished_result()
            if result is None:
                raise MptrainError(f"{self.variant}, seed {self.seed}: exit code {done.returncode}\n{done.stderr}")
        print(f"{self.variant}, seed {self.seed}: {result['status']}", file=sys.stderr, flush=True)
        return result


def plan_runs(
    path: Path, out: Path, seeds: int | None = None, overrides: Sequence[str] = (), first_seed: int = 0
) -> list[PlannedRun]:
    """Return every run of the experiment at `path`, all validated; raise ConfigError with every problem found.

    `overrides` come on top of each variant's own; `seeds` (the experiment's own number if None) are counted from
    `first_seed`.
    """
    experiment = read_experiment(path)
    config_path = path.parent / experiment.config
    planned, problems = [], []
    for variant, own in experiment.variants.items():
        for seed in range(first_seed, first_seed + (seeds or experiment.seeds)):
            given = (*own, *overrides, f"seed={seed}")
            try:
                config = load_config(config_path, given).config
            except ConfigError as error:
                problems += [f"{path}: {variant}: {problem}" for problem in error.problems]
                break
            run_dir = out / config.name / f"{variant}-seed{seed}"
            planned.append(PlannedRun(variant, seed, config_path, given, config, run_dir))
    if problems:
        raise ConfigError(problems)
    return planned


def read_experiment(path: Path) -> Experiment:
    """Return the experiment in a YAML file; raise ConfigError for one that cannot be read or has other keys."""
    try:
        return Experiment.model_validate(yaml.safe_load(path.read_text()))
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise ConfigError(f"{path}: no experiment (config, seeds, variants): {error}") from error


def run_experiment(path: Path, out: Path, planned: Sequence[PlannedRun], jobs: int) -> None:
    """Run what is planned for the experiment at `path`, `jobs` runs at a time; write and print its table."""
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ThreadPoolExecutor(jobs) as pool:
        results = list(pool.map(lambda run: run.run(threads), planned))
    runs = [{"variant": run.variant, **result} for run, result in zip(planned, results, strict=True)]
    rows = summarise(runs)
    table = markdown(rows, runs)
    record = {"experiment": str(path), "variants": rows, "runs": runs}
    (out / f"{path.stem}-table.md").write_text(table)
    (out / f"{path.stem}-results.json").write_text(json.dumps(record, indent=1))
    print(table)


def main(arguments: list[str] | None = None) -> None:
    """Run experiments and print their tables; all are validated before anything runs."""
    parser = argparse.ArgumentParser(prog="python -m recipes.compare", description="Run experiments.")
    parser.add_argument("arguments", nargs="+", metavar="EXPERIMENT|KEY=VALUE", help="experiment files, overrides")
    parser.add_argument("--seeds", type=int, help="runs per variant, instead of the experiment's own number")
    parser.add_argument("--first-seed", type=int, default=0, help="count seeds from here")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; they share the CPU's cores")
    parser.add_argument("--out", type=Path, help="folder of runs and tables (default: runs/recipes/<name>)")
    asked = parser.parse_args(arguments)
    overrides = [argument for argument in asked.arguments if is_override(argument)]
    paths = [Path(argument) for argument in asked.arguments if not is_override(argument)]
    if not paths:
        parser.error("no experiment file given")
    outs = [asked.out or Path("runs", "recipes", path.resolve().parent.name) for path in paths]
    try:
        pairs = list(zip(paths, outs, strict=True))
        planned = [plan_runs(path, out, asked.seeds, overrides, asked.first_seed) for path, out in pairs]
        for (path, out), runs in zip(pairs, planned, strict=True):
            run_experiment(path, out, runs, asked.jobs)
    except MptrainError as error:
        print(error, file=sys.stderr)
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
