"""The way in to configs: a file, a mapping or overrides -> a validated RunConfig, with every built-in entry known.

Owns: which packages and plugins register entries, and validation against the registries. Must not: import torch;
the packages below register names, descriptions and Config classes only, and import torch when they build.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import mptrain.data
import mptrain.models
import mptrain.optim
import mptrain.tasks  # noqa: F401  importing these four registers the built-in entries
from mptrain.config.emit import emit_yaml
from mptrain.config.json_schema import build_json_schema
from mptrain.config.load import load_tree
from mptrain.config.problems import describe, entry_classes
from mptrain.config.schema import EntryConfig, RunConfig
from mptrain.config.tree import DEFAULT, Dropped, Node, Origin, dotted, drop_foreign, expand_shorthands, from_plain
from mptrain.errors import ConfigError
from mptrain.registry import DATASETS, MODELS, OPTIMIZERS, SCHEDULES, TASKS, Registry

PLUGIN_GROUP = "mptrain.plugins"
REGISTRIES: Mapping[str, Registry[Any, Any]] = {
    "model": MODELS,
    "data": DATASETS,
    "task": TASKS,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
}
"""Config section -> the registry its `name` selects from."""


@dataclass(frozen=True)
class LoadedConfig:
    """A valid config with where each of its values came from."""

    config: RunConfig
    path: Path
    origins: Mapping[str, Origin]
    """Dotted path of every value in the config -> its file and line, its override, or `default`."""
    dropped: Sequence[Dropped]
    """What was left out because a higher layer selected another registry entry."""


def load_config(path: Path, overrides: Sequence[str] = (), plugin_folders: Sequence[str] = ()) -> LoadedConfig:
    """Return the validated config of a YAML file with `dotted.key=value` overrides on top.

    Plugins are looked for beside the file, in the current folder, in `plugin_folders`, and where Python looks. Raises
    ConfigError with every problem found, each on one line with its file and line.
    """
    tree = load_tree(path, overrides)
    config, tree, dropped = _validate(tree, (str(path.parent.resolve()), os.getcwd(), *plugin_folders))
    return LoadedConfig(config, path, _origins(config.model_dump(mode="json"), tree), dropped)


def config_from_mapping(raw: Mapping[str, Any], *, source: str) -> RunConfig:
    """Return the validated config of a plain mapping; `source` names it in ConfigError's lines."""
    tree = expand_shorthands(from_plain(raw, Origin(source)))
    return _validate(tree, (os.getcwd(),))[0]


def to_yaml(config: RunConfig) -> str:
    """Return the whole config, defaults included, as YAML that loads back to an equal RunConfig."""
    return emit_yaml(config.model_dump(mode="json"))


def annotated_yaml(loaded: LoadedConfig) -> str:
    """Return the whole config as YAML with the origin of each value in a comment behind it."""
    head = "".join(f"# {item}\n" for item in loaded.dropped)
    return head + emit_yaml(loaded.config.model_dump(mode="json"), lambda path: str(loaded.origins[path]))


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (Draft 2020-12) of a config file over all registered entries."""
    import_entry_points()
    return build_json_schema(
        {section: [(entry.name, entry.config) for entry in registry] for section, registry in REGISTRIES.items()}
    )


@cache
def import_entry_points() -> None:
    """Import the plugins that installed packages offer as entry points, once; raise ConfigError if one fails."""
    for point in entry_points(group=PLUGIN_GROUP):
        origin = Origin(f"entry point '{point.name}' of group {PLUGIN_GROUP}")
        _import_plugin(point.module, origin)


def _validate(tree: Node, search: Sequence[str]) -> tuple[RunConfig, Node, list[Dropped]]:
    import_entry_points()
    _import_plugins(tree, search)
    tree, dropped = drop_foreign(tree, _known_keys)
    context = {section: registry.config_type for section, registry in REGISTRIES.items()}
    try:
        return RunConfig.model_validate(tree.plain(), context=context), tree, dropped
    except ValidationError as error:
        raise ConfigError(describe(error, tree, entry_classes(tree, _entry_class))) from None


def _entry_class(section: str, name: str) -> type[EntryConfig] | None:
    entry = REGISTRIES[section].find(name)
    return None if entry is None else entry.config


def _known_keys(section: str, name: str) -> Collection[str] | None:
    cls = _entry_class(section, name)
    return None if cls is None else cls.model_fields.keys()


def _import_plugins(tree: Node, search: Sequence[str]) -> None:
    """Import the modules under `plugins`, looking also in the folders `search`; leave wrong types to validation."""
    node = tree.child("plugins")
    if node is None or not isinstance(node.value, list):
        return
    # Last on the path: a user's random.py must not hide the standard library's.
    sys.path += [folder for folder in dict.fromkeys(search) if folder not in sys.path]
    problems: list[str] = []
    for item in node.value:
        try:
            if isinstance(item.value, str):
                _import_plugin(item.value, Origin(f"{item.origin}: plugins"))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)


def _import_plugin(module: str, origin: Origin) -> None:
    try:
        importlib.import_module(module)
    except (Exception, SystemExit) as error:
        reason = " ".join(str(error).split())
        hint = ""
        if isinstance(error, ModuleNotFoundError) and error.name == module.split(".", 1)[0]:
            hint = "; it is neither beside the config, nor in the current folder, nor installed"
        raise ConfigError(f"{origin}: cannot import {module!r}: {type(error).__name__}: {reason}{hint}") from None


def _origins(data: Any, node: Node | None, path: tuple[str | int, ...] = ()) -> dict[str, Origin]:
    """Return the origin of every value in `data`, sections and list items included; `node` is what was written."""
    origins = {dotted(path): node.origin if node is not None else DEFAULT}
    children = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, child in children:
        origins |= _origins(child, node.child(key) if node is not None else None, (*path, key))
    return origins
