"""What may change between a run and its resumption.

Owns: the list of config keys that decide shapes and data order. Must not: load state.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from mptrain.config.schema import RunConfig
from mptrain.errors import CheckpointError, ConfigError

_MUST_AGREE = ("seed", "model", "task", "data", "optimizer.name", "train.accumulate", "ema")
_MAY_CHANGE_IN_DATA = ("eval_batch_size", "num_workers", "cache")


def check_resumable(config: RunConfig, run_dir: Path) -> None:
    """Raise ConfigError naming every key whose change would make the restored state meaningless."""
    try:
        before: dict[str, Any] = yaml.safe_load((run_dir / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise CheckpointError(f"{run_dir / 'config.yaml'}: cannot be read, so not resumed ({error})") from None
    now = config.model_dump(mode="json")
    problems = []
    for key in _MUST_AGREE:
        old, new = _value(before, key), _value(now, key)
        if key == "data":
            old, new = ({k: v for k, v in d.items() if k not in _MAY_CHANGE_IN_DATA} for d in (old, new))
        if old != new:
            problems.append(f"{key}: was {old}, is {new}: a run cannot be resumed across this change; start a new run")
    if problems:
        raise ConfigError(problems)


def _value(tree: dict[str, Any], dotted: str) -> Any:
    value: Any = tree
    for key in dotted.split("."):
        value = value[key]
    return value
