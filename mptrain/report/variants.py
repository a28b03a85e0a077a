"""Which runs are compared with which: runs -> variants (differ in nothing but the seed) -> ladders.

Owns: the keys that tell runs apart, the baseline, and labels. Must not: read files, or look at results other than what
precision was in force and which run of a seed is the newest.

Of the keys that differ among the runs, the compared ones set the variants of a ladder apart; all others set ladders
apart. Compared are the keys of --baseline, by default `precision.*`; and planted faults, so that a drill stands beside
the runs it was made of, never among them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from mptrain.config.emit import flow
from mptrain.config.load import parse_overrides
from mptrain.config.precision import PrecisionConfig
from mptrain.config.wording import nearest, shorten
from mptrain.errors import ConfigError
from mptrain.report.runs import Run

_UNFINISHED = ("running", "killed", "preempted", "interrupted")
_NO_SETTING = ("name", "seed", "plugins")
_OUTPUT_ONLY = ("log.", "checkpoint.")
_SUBJECT = ("model.", "data.", "task.")
"""What is learned, and by what: never compared unless --baseline says so."""
_DRILLS = "debug."
_BACKEND = "precision.backend"
_ABSENT = object()

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Group:
    """The runs of one variant."""

    label: str
    settings: Settings
    """The differing keys with this variant's values."""
    runs: tuple[Run, ...]
    is_baseline: bool


@dataclass(frozen=True)
class LadderGroup:
    """Variants to compare with one another."""

    title: str
    common: Settings
    variants: tuple[Group, ...]
    """The baseline first."""
    notes: tuple[str, ...]

    @property
    def baseline(self) -> Group | None:
        """Return the variant that the others are compared with."""
        return next((group for group in self.variants if group.is_baseline), None)


def group(runs: Sequence[Run], baseline: Sequence[str] = ()) -> list[LadderGroup]:
    """Return the ladders among `runs`; `baseline` holds `dotted.key=value` that together name each ladder's baseline.

    Raises ConfigError for a baseline that no run has, or that several variants of a ladder have.
    """
    differing = _differing(runs)
    wanted = _wanted(baseline, runs)
    compared = _compared(differing, wanted)
    apart = [key for key in differing if key not in compared]
    ladders = _split(runs, apart)
    titles = _titles([members for _, members in ladders], apart)
    return [
        _ladder(title, dict(zip(apart, values, strict=True)), members, compared, differing, wanted)
        for title, (values, members) in zip(titles, ladders, strict=True)
    ]


def _differing(runs: Sequence[Run]) -> list[str]:
    """Return the settings that are not the same in every run that has them, in the config's order.

    A key that some runs lack belongs to another model's entry, whose name differs too, or is newer than those runs.
    """
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    settings = [key for key in keys if key not in _NO_SETTING and not key.startswith(_OUTPUT_ONLY)]
    return [key for key in settings if len({_text(run, key) for run in runs if key in run.settings}) > 1]


def _value(run: Run, key: str) -> Any:
    """Return a setting; its default where the run is older than the key."""
    return run.settings.get(key, _defaults().get(key))


def _text(run: Run, key: str) -> str:
    """Return a setting as text that tells values apart."""
    return flow(_value(run, key))


def _wanted(baseline: Sequence[str], runs: Sequence[Run]) -> dict[str, Any]:
    """Return the baseline's settings by dotted key, each of which at least one run has."""
    layer = parse_overrides(baseline)
    wanted = _leaves(layer.plain()) if layer else {}
    keys = list(dict.fromkeys(key for run in runs for key in run.settings))
    problems = []
    for key, value in wanted.items():
        said = f"--baseline {key}={flow(value)}"
        if key not in keys:
            near = nearest(key, keys)
            problems.append(f"{said}: no run has that key" + (f" (did you mean {near!r}?)" if near else ""))
        elif key in _NO_SETTING or key.startswith(_OUTPUT_ONLY):
            problems.append(f"{said}: {key} tells no variants apart; name a key that does, e.g. precision=fp32")
        elif not any(_has(run, key, value) for run in runs):
            there = sorted({_text(run, key) for run in runs if key in run.settings})
            near = nearest(flow(value), there)
            hint = f" (did you mean {near!r}?)" if near else ""
            problems.append(f"{said}: no run has that value; there is {shorten(', '.join(there), 200)}{hint}")
    if problems:
        raise ConfigError(problems)
    return wanted


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= _leaves(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def _has(run: Run, key: str, value: Any) -> bool:
    """Say whether a run has a setting; a mode also counts where `auto` chose it."""
    if key == "precision.mode" and run.precision is not None and run.precision.mode == value:
        return True
    return key in run.settings and bool(run.settings[key] == value)


def _compared(differing: Sequence[str], wanted: Mapping[str, Any]) -> list[str]:
    """Return the keys that set the variants of a ladder apart."""
    if wanted:
        sections = tuple(section for key in wanted if (section := _section_of(key)))
        return [key for key in differing if key in wanted or key.startswith((*sections, _DRILLS))]
    if any(key.startswith("precision.") for key in differing):
        return [key for key in differing if key.startswith(("precision.", _DRILLS))]
    return [key for key in differing if not key.startswith(_SUBJECT)]


def _section_of(key: str) -> str | None:
    """Return the section whose keys are one choice with `key`: a mode or an entry with its settings, a loss scale."""
    section, _, name = key.rpartition(".")
    return f"{section}." if name in ("mode", "name") or "." in section else None


def _split(runs: Iterable[Run], keys: Sequence[str]) -> list[tuple[tuple[Any, ...], list[Run]]]:
    """Return the runs by their values of `keys`, in the order of their first."""
    parts: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    for run in runs:
        parts[tuple(_text(run, key) for key in keys)].append(run)
    return [(tuple(_value(members[0], key) for key in keys), members) for members in parts.values()]


def _titles(ladders: Sequence[Sequence[Run]], apart: Sequence[str]) -> list[str]:
    """Return each ladder's title: its config's name, with the settings that tell it from others of that name."""
    names = [str(members[0].settings.get("name", "run")) for members in ladders]
    titles = []
    for name, members in zip(names, ladders, strict=True):
        alike = [other for other_name, other in zip(names, ladders, strict=True) if other_name == name]
        keys = [key for key in apart if len({_text(other[0], key) for other in alike}) > 1]
        said = [f"{key}={shorten(_text(members[0], key), 40)}" for key in keys if key in members[0].settings]
        titles.append(", ".join([name, *said]))
    return _unique(titles)


def _ladder(
    title: str,
    common: Settings,
    runs: Sequence[Run],
    compared: Sequence[str],
    differing: Sequence[str],
    wanted: Mapping[str, Any],
) -> LadderGroup:
    parts = _split(runs, compared)
    notes: list[str] = []
    chosen = _choose_baseline([members[0] for _, members in parts], wanted, compared, title, notes)
    labels = _labels([members[0] for _, members in parts], compared)
    groups = []
    for index, (label, (_, members)) in enumerate(zip(labels, parts, strict=True)):
        settings = {key: _value(members[0], key) for key in differing}
        groups.append(Group(label, settings, _newest_per_seed(label, members, notes), index == chosen))
    groups.sort(key=lambda each: not each.is_baseline)
    return LadderGroup(title, common, tuple(groups), tuple(notes))


def _choose_baseline(
    variants: Sequence[Run], wanted: Mapping[str, Any], compared: Sequence[str], title: str, notes: list[str]
) -> int | None:
    """Return which variant is the baseline, given one run of each; a note says why there is none."""
    if wanted:
        fitting = [index for index, run in enumerate(variants) if all(_has(run, *each) for each in wanted.items())]
        if len(fitting) > 1:
            choices = "; ".join(_labels([variants[index] for index in fitting], compared))
            asked = " ".join(f"--baseline {key}={flow(value)}" for key, value in wanted.items())
            raise ConfigError(f"{asked}: fits several variants of {title} ({choices}); add a key that tells them apart")
        if not fitting:
            notes.append("no variant here is the baseline that was asked for, so nothing is compared")
        return fitting[0] if fitting else None
    fp32 = [index for index, run in enumerate(variants) if _is_fp32(run)]
    if len(fp32) == 1:
        return fp32[0]
    if len(variants) > 1:
        said = "several variants are FP32" if fp32 else "no variant is FP32"
        notes.append(f"{said}, so nothing is compared; name a baseline with --baseline KEY=VALUE{_example(compared)}")
    return None


def _example(compared: Sequence[str]) -> str:
    return f", KEY being one of {shorten(', '.join(compared), 120)}" if compared else ""


def _is_fp32(run: Run) -> bool:
    if run.precision is None:
        return run.settings.get("precision.mode") == "fp32"
    return run.precision.mode == "fp32" and not run.precision.formats and not run.precision.overrides


def _newest_per_seed(label: str, runs: Sequence[Run], notes: list[str]) -> tuple[Run, ...]:
    """Return one run for each seed, the newest of the finished ones; a note names those left out."""
    by_seed: dict[int | None, list[Run]] = defaultdict(list)
    for run in runs:
        by_seed[run.seed].append(run)
    kept = []
    for seed, same in by_seed.items():
        best = max(same, key=lambda run: (run.status not in _UNFINISHED, run.ended))
        kept.append(best)
        left_out = [run.path for run in same if run is not best]
        if left_out:
            notes.append(
                f"{label}, seed {seed}: {len(same)} runs; {best.path} is the newest that finished and counts, "
                f"not {', '.join(left_out)}"
            )
    return tuple(sorted(kept, key=lambda run: -1 if run.seed is None else run.seed))


def _labels(variants: Sequence[Run], compared: Sequence[str]) -> list[str]:
    """Return a short, unique label for each variant: the mode, and the compared settings that are not the default."""
    modes = [str(run.settings.get("precision.mode", "?")) for run in variants]
    defaults = _defaults()
    labels = []
    for mode, run in zip(modes, variants, strict=True):
        alike = [other for other_mode, other in zip(modes, variants, strict=True) if other_mode == mode]
        told = [key for key in compared if _value(run, key) != defaults.get(key, _ABSENT)]
        if len({_text(other, _BACKEND) for other in alike}) == 1 and _BACKEND in told:
            told.remove(_BACKEND)  # emulation is told beside every speed, and shortens no label
        parts = [_mode_label(run, mode)] if _tells(modes, told) else []
        labels.append(", ".join([*parts, *_told(run, told)]))
    return _unique(labels)


def _tells(modes: Sequence[str], keys: Sequence[str]) -> bool:
    """Say whether the mode belongs into a label: not where one mode is compared in something else."""
    return len(set(modes)) > 1 or not keys or any(key.startswith("precision.") for key in keys)


def _mode_label(run: Run, mode: str) -> str:
    phases = run.settings.get("precision.phases")
    if mode == "auto" and phases:
        return " then ".join(str(phase.get("mode")) for phase in phases if isinstance(phase, dict))
    return mode


def _told(run: Run, keys: Sequence[str]) -> list[str]:
    """Return `key=value` of settings in short; a loss scale is one of them whatever its keys."""
    scale = [key for key in keys if key in ("precision.loss_scale.kind", "precision.loss_scale.init_scale")]
    parts = []
    if scale:
        kind, init = _value(run, "precision.loss_scale.kind"), _value(run, "precision.loss_scale.init_scale")
        shows_init = kind == "static" or "precision.loss_scale.init_scale" in scale
        parts.append(f"loss_scale={kind}" + (f" {init:g}" if shows_init and isinstance(init, int | float) else ""))
    skipped = ("precision.mode", "precision.phases", *scale) if run.settings.get("precision.mode") == "auto" else scale
    rest = [key for key in keys if key not in (*skipped, "precision.mode", "debug.plant")]
    parts += [f"{key.removeprefix('precision.')}={shorten(_text(run, key), 40)}" for key in rest]
    return [*parts, "drill"] if "debug.plant" in keys else parts


@cache
def _defaults() -> dict[str, Any]:
    return {**_leaves({"precision": PrecisionConfig().model_dump(mode="json")}), "debug.plant": []}


def _unique(labels: Sequence[str]) -> list[str]:
    """Number the labels that shortening made equal."""
    counts: dict[str, int] = defaultdict(int)
    unique = []
    for label in labels:
        counts[label] += 1
        unique.append(label if labels.count(label) == 1 else f"{label} #{counts[label]}")
    return unique
