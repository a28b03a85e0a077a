"""What may change between a run and its resumption.

Owns: the list of config keys that decide shapes and data order, and the wording of changes. Must not: load state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mptrain.catalog import load_config
from mptrain.config.problems import shown
from mptrain.config.schema import RunConfig
from mptrain.errors import CheckpointError, ConfigError

_MUST_AGREE = (
    "seed",
    "model",
    "task",
    "data",
    "optimizer.name",
    "optimizer.decay_norm_and_bias",
    "train.accumulate",
    "ema",
)
_MAY_CHANGE = ("data.eval_batch_size", "data.num_workers", "data.cache", "train.stop_at_step", "plugins", "debug.plant")
"""Keys that a run may change without becoming another: not worth a word (a drill says itself what it plants)."""


def changes_on_resume(config: RunConfig, run_dir: Path) -> list[str]:
    """Return what differs from the run's recorded config, worded, e.g. `optimizer.lr: was 0.1, is 0.01`.

    Raises ConfigError naming every key whose change would make the restored state meaningless, and where the recorded
    config is damaged; CheckpointError where there is none.
    """
    recorded = run_dir / "config.yaml"
    if not recorded.is_file():
        raise CheckpointError(f"--resume: {run_dir} is not a run directory (no config.yaml)")
    before = dict(_leaves(load_config(recorded).config.model_dump(mode="json")))
    now = dict(_leaves(config.model_dump(mode="json")))
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key) and key not in _MAY_CHANGE]
    worded = {key: f"{key}: was {shown(before.get(key))}, is {shown(now.get(key))}" for key in changed}
    refused = [text for key, text in worded.items() if any(f"{key}.".startswith(f"{fixed}.") for fixed in _MUST_AGREE)]
    if refused:
        raise ConfigError(f"{text}: a run cannot be resumed across this change; start a new run" for text in refused)
    return list(worded.values())


def _leaves(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value); lists are values."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value
