"""The sweep file: which configs run, in which grid, variants and seeds; validated like a config.

Owns: its keys. Must not: know the keys of a config, which every combination is validated against later.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from mptrain.config.load import load_tree
from mptrain.config.problems import describe
from mptrain.config.section import PositiveInt, Section
from mptrain.config.tree import Node
from mptrain.errors import ConfigError

_SIGNS = ("config", "configs", "grid", "zip", "variants")
"""Keys that tell a sweep file from a config."""
_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=60)]
_Values = Annotated[list[Any], Field(min_length=1)]


class SweepFile(Section):
    """What a sweep file holds."""

    config: str | None = None
    """The config that is swept, relative to this file; give this or configs."""
    configs: Annotated[list[str] | None, Field(min_length=1)] = None
    """Several configs, each swept in the same way."""
    overrides: list[str] = Field(default=[])
    """key=value for every run, below all else that is given here; no part of the runs' names."""
    variants: dict[_Name, list[str]] = Field(default={})
    """Letters, digits, dots, dashes, underscores: name of a variant -> its overrides."""
    zip: dict[str, _Values] = Field(default={})
    """Dotted key -> values; the first values of all keys go together, then the second, and so on."""
    grid: dict[str, _Values] = Field(default={})
    """Dotted key -> values; every combination runs."""
    seeds: PositiveInt | None = None
    """Runs of each combination, with seeds 0, 1, ..."""

    @model_validator(mode="after")
    def _agrees(self) -> SweepFile:
        if (self.config is None) == (self.configs is None):
            raise ValueError("give exactly one of config and configs")
        both = sorted(self.grid.keys() & self.zip.keys())
        if both:
            raise ValueError(f"{both[0]} is in grid and in zip; give it in one of them")
        if self.seeds is not None and "seed" in {**self.grid, **self.zip}:
            raise ValueError("give seeds, or values of seed in grid or zip, not both")
        lengths = {key: len(values) for key, values in self.zip.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(unequal(lengths))
        return self


def unequal(lengths: dict[str, int]) -> str:
    """Return what is wrong with zipped lists of these lengths."""
    found = ", ".join(f"{key} has {length}" for key, length in lengths.items())
    return f"zip needs lists of one length, and {found} values"


def read_sweep_file(path: Path) -> SweepFile | None:
    """Return the sweep in a YAML file, its configs as paths from here; None where the file is a config.

    Raises ConfigError with every problem found, each with its line.
    """
    tree = load_tree(path)
    if not any(key in tree.value for key in _SIGNS):
        return None
    written = {key: node for key, node in tree.value.items() if key != "name" or node.origin.line}
    tree = Node(written, tree.origin)
    try:
        found = SweepFile.model_validate(tree.plain())
    except ValidationError as error:
        raise ConfigError(describe(error, tree, {}, SweepFile)) from None
    names = found.configs or [str(found.config)]
    paths = [os.path.normpath(path.parent / name) for name in names]
    return found.model_copy(update={"config": None, "configs": paths})
