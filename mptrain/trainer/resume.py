"""What may change between a run and its resumption.

Owns: the list of config keys that decide shapes and data order, what else of the data may not change, and the wording
of changes. Must not: load state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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
"""Keys, and sections, that decide shapes, the kind of state, or the order of the data."""
_MAY_CHANGE = ("data.eval_batch_size", "data.num_workers", "data.cache", "data.read_timeout")
"""Keys in those sections that decide nothing of the kind."""
_SAID_ELSEWHERE = "debug.plant"
"""A drill is announced by itself."""
DATA = "data"
"""What `--allow-change` calls the identity of the data: their files, sizes, checksums."""


class Change(NamedTuple):
    """One key whose value is another than the run was recorded with."""

    key: str
    was: Any
    now: Any
    reason: str | None = None
    """Why it was allowed; None where it needed no permission."""

    def __str__(self) -> str:
        allowed = f" (allowed: {self.reason})" if self.reason is not None else ""
        return f"{self.key} changed {shown(self.was)} -> {shown(self.now)}{allowed}"


def parse_allowed(options: Sequence[str]) -> dict[str, str]:
    """Return key -> reason of `--allow-change KEY=REASON`; raise ConfigError for one without a key or a reason."""
    allowed = {}
    for option in options:
        key, _, reason = (part.strip() for part in option.partition("="))
        if not key or not reason:
            raise ConfigError(f"--allow-change: {option!r} must be KEY=REASON, e.g. optimizer.name='lion looks better'")
        allowed[key] = reason
    return allowed


def changes_on_resume(config: RunConfig, run_dir: Path, allowed: Mapping[str, str] | None = None) -> list[Change]:
    """Return what differs from the run's recorded config.

    Raises ConfigError naming every key whose change would make the restored state meaningless and is not in `allowed`
    (key or section -> reason), every allowed key that did not change, and where the recorded config is damaged;
    CheckpointError where there is none.
    """
    recorded = run_dir / "config.yaml"
    if not recorded.is_file():
        raise CheckpointError(f"--resume: {run_dir} is not a run directory (no config.yaml)")
    before = dict(leaves(load_config(recorded).config.model_dump(mode="json")))
    now = dict(leaves(config.model_dump(mode="json")))
    allowed = dict(allowed or {})
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key) and key != _SAID_ELSEWHERE]
    changes = [Change(key, before.get(key), now.get(key), _reason(key, allowed)) for key in changed]
    refused = [
        f"{c.key}: was {shown(c.was)}, is {shown(c.now)}: a run cannot be resumed across this change; start a new run, "
        f"or record why it may with --allow-change {c.key}=REASON"
        for c in changes
        if _is_fixed(c.key) and c.reason is None
    ]
    refused += [
        f"--allow-change: '{key}' has not changed; leave it out"
        for key in allowed
        if key != DATA and not any(_is_in(change.key, key) for change in changes)
    ]
    if refused:
        raise ConfigError(refused)
    return changes


def check_identity(
    saved: Mapping[str, Any] | None, now: Mapping[str, Any], allowed: Mapping[str, str]
) -> Change | None:
    """Return how the data differ from those the run began with, None where they do not or it was not recorded.

    Raises ConfigError where they differ and `allowed` has no reason for it.
    """
    if saved is None or saved == now:
        return None
    keys = [key for key in {**saved, **now} if saved.get(key) != now.get(key)]
    change = Change(DATA, {k: saved.get(k) for k in keys}, {k: now.get(k) for k in keys}, allowed.get(DATA))
    if change.reason is None:
        raise ConfigError(
            f"data: they are not those that this run began with: {', '.join(keys)} "
            f"was {shown(change.was)}, is {shown(change.now)}; put the old files back, or record why they may differ "
            f"with --allow-change {DATA}=REASON"
        )
    return change


def allows(key: str, allowed: Mapping[str, str]) -> bool:
    """Say whether a change of `key`, or of something in it, was allowed."""
    return any(_is_in(name, key) or _is_in(key, name) for name in allowed)


def _reason(key: str, allowed: Mapping[str, str]) -> str | None:
    return next((reason for name, reason in allowed.items() if _is_in(key, name)), None)


def _is_fixed(key: str) -> bool:
    return key not in _MAY_CHANGE and any(_is_in(key, fixed) for fixed in _MUST_AGREE)


def _is_in(key: str, section: str) -> bool:
    return f"{key}.".startswith(f"{section}.")


def leaves(tree: Mapping[Any, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value); lists are values."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def check_kinds(saved: Any, own: Any, name: str) -> None:
    """Raise TypeError unless `saved` is built as a run's `own` state: mappings, lists and plain numbers (or None).

    What a mapping or an empty list of `own` does not tell may be numbers, and lists of numbers.
    """
    if isinstance(own, Mapping) and isinstance(saved, Mapping):
        for key, value in saved.items():
            check_kinds(value, own.get(key, value if _is_numbers(value) else 0), f"{name}.{key}")
    elif isinstance(own, list | tuple) and isinstance(saved, list | tuple):
        for item in saved:
            check_kinds(item, own[0] if own else (item if _is_numbers(item) else 0), name)
    elif not _is_number(own) or not _is_number(saved):
        raise TypeError(f"{name} holds a {type(saved).__name__}, which no run saves there")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | None)


def _is_numbers(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(map(_is_number, value))
