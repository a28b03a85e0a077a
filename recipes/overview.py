"""Puts several experiments with the same variants into one table: `python -m recipes.overview OUT`.

`OUT` is what `recipes.compare --out OUT` filled: a row per config, a column per variant.

Owns: that table. Must not: run anything.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from mptrain.telemetry.human import NOT_AVAILABLE
from recipes.table import spread, with_spread

Results = Mapping[str, Sequence[Mapping[str, Any]]]
"""Variant -> the results of its seeds."""


def read_results(out: Path) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Return config -> variant -> results, of the runs `OUT/<config>/<variant>-seed<n>`."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for path in sorted(out.glob("*/*-seed*/result.json")):
        config, variant = path.parts[-3], path.parts[-2].rpartition("-seed")[0]
        found.setdefault(config, {}).setdefault(variant, []).append(json.loads(path.read_text()))
    return found


def overview(found: Mapping[str, Results]) -> str:
    """Return the table as markdown: of each config, final metric and wall seconds by variant, mean over the seeds."""
    variants = list(dict.fromkeys(name for results in found.values() for name in results))
    variants.sort(key=lambda name: name != "fp32")  # what the others are compared with comes first
    head = ["config", "metric", *variants, *(f"{name}, s" for name in variants), "skipped steps"]
    rows = [head, ["---"] * len(head), *(_row(config, results, variants) for config, results in found.items())]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows) + "\n"


def _row(config: str, results: Results, variants: Sequence[str]) -> list[str]:
    metric = next(iter(results.values()))[0]["best"]["metric"]
    by_variant = [results.get(name, ()) for name in variants]
    final = [with_spread(spread(run["metrics"][metric] for run in runs)) for runs in by_variant]
    seconds = [f"{fmean(run['wall_s'] for run in runs):.0f}" if runs else NOT_AVAILABLE for runs in by_variant]
    skipped = {name: sum(run["skipped_steps"] for run in runs) for name, runs in zip(variants, by_variant, strict=True)}
    told = ", ".join(f"{name}: {count}" for name, count in skipped.items() if count)
    return [config, metric, *final, *seconds, told or "0"]


def main(arguments: list[str] | None = None) -> None:
    """Print the table of a folder of experiments."""
    parser = argparse.ArgumentParser(prog="python -m recipes.overview", description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder that recipes.compare filled")
    found = read_results(parser.parse_args(arguments).out)
    if not found:
        parser.error("no OUT/<config>/<variant>-seed<n>/result.json is in there")
    print(overview(found), end="")


if __name__ == "__main__":
    main()
