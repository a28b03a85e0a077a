"""Run folders -> Report: reads, groups, tests, and words the whole comparison.

Owns: the order of the work, and which figure of a run enters which field. Must not: print, or import torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mptrain import __version__
from mptrain.config.wording import nearest
from mptrain.errors import ConfigError, DataError
from mptrain.report import metric_names, statistics, verdict, words
from mptrain.report.model import Comparison, Curve, Estimate, Ladder, Member, Report, Variant
from mptrain.report.runs import Run, find_runs, read_runs
from mptrain.report.thinning import thinned
from mptrain.report.variants import Group, LadderGroup, group

NO_METRIC = "no metric"
_SPEED_MATTERS = ("device", "cpu", "torch", "torch_threads")
"""Facts of the environment that speeds depend on."""


def compare(paths: Sequence[Path], baseline: Sequence[str] = (), metric: str | None = None) -> Report:
    """Return the comparison of every run among and below `paths`.

    `baseline` holds `dotted.key=value` that together name each ladder's baseline (default: what ran in FP32); `metric`
    replaces the runs' own main metric. Raises ConfigError where there are no runs or a name fits none, DataError where
    none can be read.
    """
    runs, problems = read_runs(find_runs(paths), metric)
    if not runs:
        raise DataError("; ".join(problems))
    if metric is not None:
        _check_metric(metric, runs)
    ladders = []
    for found in group(runs, baseline):
        ladder = _ladder(found, metric)
        if isinstance(ladder, Ladder):
            ladders.append(ladder)
        else:
            problems.append(ladder)
    if not ladders:
        raise DataError("; ".join(problems))
    return Report(tuple(ladders), tuple(problems), f"mptrain {__version__}")


def _check_metric(metric: str, runs: Iterable[Run]) -> None:
    known = sorted({name for run in runs for name in run.metric_names})
    if metric not in known:
        near = nearest(metric, known)
        hint = f" (did you mean {near!r}?)" if near else ""
        raise ConfigError(f"--metric {metric}: no run has it; there is {', '.join(known) or 'none'}{hint}")


def _ladder(found: LadderGroup, metric: str | None) -> Ladder | str:
    """Return the comparison of one ladder, or why there is none."""
    runs = [run for variant in found.variants for run in variant.runs]
    names = Counter(run.metric_name for run in runs if run.metric_name)
    name = metric or (names.most_common(1)[0][0] if names else NO_METRIC)
    found = replace(found, variants=tuple(_judged_by(name, variant) for variant in found.variants))
    higher = _direction(name, runs)
    if higher is None:
        which = f"--metric {name}" if metric else f"{found.title}: its runs ({runs[0].path}, ...) do not say"
        return f"{which}: whether more {name} is better is not known; give --metric a metric for which it is"
    base_metrics = _metrics_by_seed(found.baseline.runs if found.baseline else ())
    base = statistics.estimate(list(base_metrics.values())) if base_metrics else None
    target = base.mean if base else None
    variants = tuple(_variant(variant, target, higher) for variant in found.variants)
    ladder = Ladder(
        title=found.title,
        metric=name,
        higher_is_better=higher,
        as_points=metric_names.is_share(name),
        noise_floor=base.deviation if base else None,
        baseline=found.baseline.label if found.baseline else None,
        variants=_with_ratios(variants),
        common=found.common,
        environment=_environment(runs),
        notes=(),
    )
    ladder = replace(ladder, variants=_with_comparisons(ladder, found, base_metrics))
    worded = tuple(replace(each, verdict=verdict.variant_verdict(ladder, each)) for each in ladder.variants)
    ladder = replace(ladder, variants=worded)
    notes = (*found.notes, *_notes(ladder, found))
    return replace(ladder, notes=notes, recommendation=verdict.recommendation(ladder))


def _judged_by(name: str, variant: Group) -> Group:
    """Return the variant without the metrics of runs of another task: they are no value of `name`."""
    runs = (
        run if run.metric_name in (name, None) else replace(run, metric=None, metric_recorded=False, evaluations=())
        for run in variant.runs
    )
    return replace(variant, runs=tuple(runs))


def _direction(metric: str, runs: Iterable[Run]) -> bool | None:
    """Return whether more of the metric is better: as a run says, else as it is for a built-in one of that name."""
    said = {run.higher_is_better for run in runs if run.metric_name == metric} - {None}
    if len(said) == 1:
        return said.pop()
    return True if metric == NO_METRIC else metric_names.higher_is_better(metric)


def _metrics_by_seed(runs: Iterable[Run]) -> dict[int, float]:
    """Return the final metric of each run that was trained to its end; a run without a seed has one of its own."""
    finished = (run for run in runs if run.status in verdict.FINISHED and run.metric is not None)
    return {-1 - index if run.seed is None else run.seed: run.metric or 0.0 for index, run in enumerate(finished)}


def _variant(found: Group, target: float | None, higher_is_better: bool) -> Variant:
    """Return one variant with its means, not compared yet."""
    members = tuple(_member(run, target, higher_is_better) for run in found.runs)
    finished = tuple(member for member in members if member.status in verdict.FINISHED)
    shown = finished or members  # where none was trained to its end, the figures are of what there is
    return Variant(
        label=found.label,
        settings=found.settings,
        precision=next((run.precision.line() for run in found.runs if run.precision), "unknown"),
        is_baseline=found.is_baseline,
        members=members,
        metric=_mean(finished, lambda member: member.metric),
        train_loss=_mean(finished, lambda member: member.train_loss),
        samples_per_s=_mean(shown, lambda member: member.samples_per_s),
        peak_memory_bytes=_mean(shown, lambda member: member.peak_memory_bytes),
        seconds_to_target=_mean(finished, lambda member: member.seconds_to_target),
        skipped_steps=_mean(shown, lambda member: member.skipped_steps),
        speedup=None,
        memory_ratio=None,
        statuses=Counter(member.status for member in members),
        comparison=None,
        verdict="",
    )


def _mean(members: Iterable[Member], figure: Callable[[Member], float | None]) -> Estimate | None:
    """Return the mean of a figure over the members that have it."""
    values = [float(value) for member in members if (value := figure(member)) is not None]
    return statistics.estimate(values) if values else None


def _member(run: Run, target: float | None, higher_is_better: bool) -> Member:
    emulated = run.precision is not None and run.precision.backend == "emulated"
    shown = thinned(run.evaluations)
    return Member(
        path=run.path,
        seed=run.seed,
        status=run.status,
        error=run.error,
        metric=run.metric,
        train_loss=run.train_loss,
        seconds_to_target=None if emulated or target is None else _seconds_to(target, run, higher_is_better),
        samples_per_s=run.samples_per_s,
        step_time_ms=run.step_time_ms,
        peak_memory_bytes=run.peak_memory_bytes,
        skipped_steps=run.skipped_steps,
        attempted_steps=run.attempted_steps,
        final_loss_scale=run.final_loss_scale,
        data_wait_fraction=run.data_wait_fraction,
        wall_s=run.wall_s,
        emulated=emulated,
        loss=run.loss,
        metric_curve=Curve(tuple(each.step for each in shown), tuple(each.value for each in shown)),
        loss_scale=run.loss_scale,
        skips=run.skips,
        gradients=run.gradients,
    )


def _seconds_to(target: float, run: Run, higher_is_better: bool) -> float | None:
    """Return the training time until the first evaluation at least as good as `target`; None where there is none."""
    for evaluated in run.evaluations:
        value = evaluated.value
        if value is not None and (value >= target if higher_is_better else value <= target):
            return evaluated.seconds
    return None


def _with_ratios(variants: tuple[Variant, ...]) -> tuple[Variant, ...]:
    """Return the variants with speed-up and memory against the baseline."""
    base = next((variant for variant in variants if variant.is_baseline), None)
    if base is None:
        return variants
    return tuple(
        replace(
            each,
            speedup=_ratio(each.samples_per_s, base.samples_per_s),
            memory_ratio=_ratio(each.peak_memory_bytes, base.peak_memory_bytes),
        )
        for each in variants
    )


def _ratio(one: Estimate | None, other: Estimate | None) -> float | None:
    return one.mean / other.mean if one and other and other.mean > 0 else None


def _with_comparisons(ladder: Ladder, found: LadderGroup, base: Mapping[int, float]) -> tuple[Variant, ...]:
    """Return the variants, all but the baseline compared with it."""
    if found.baseline is None:
        return ladder.variants
    others = [each for each in found.variants if not each.is_baseline]
    differences: list[statistics.Difference | None] = []
    for each in others:
        metrics = _metrics_by_seed(each.runs)
        usable = bool(base and metrics) and not _has_failed(each)
        differences.append(statistics.difference(metrics, base) if usable else None)
    adjusted = statistics.holm([each.p_value if each else None for each in differences])
    compared: list[Comparison] = []
    for one, difference, p_value in zip(others, differences, adjusted, strict=True):
        if difference is not None:
            compared.append(statistics.decide(difference, p_value, ladder.noise_floor, ladder.higher_is_better))
        else:
            outcome: Any = "failed" if _has_failed(one) else "unclear"
            compared.append(Comparison(outcome, None, False, None, None))
    waiting = iter(compared)
    return tuple(each if each.is_baseline else replace(each, comparison=next(waiting)) for each in ladder.variants)


def _has_failed(found: Group) -> bool:
    """Say whether a run did not end well, or its metric is not finite; one that still runs has not failed."""
    ended = [run for run in found.runs if run.status != "running"]
    return any(run.status not in verdict.FINISHED or (run.metric is None and run.metric_recorded) for run in ended)


def _environment(runs: Iterable[Run]) -> dict[str, Any]:
    """Return each fact of the runs' environments; a list where they differ."""
    facts: dict[str, list[Any]] = {}
    for run in runs:
        for key, value in run.environment.items():
            if value is not None and value not in facts.setdefault(key, []):
                facts[key].append(value)
    return {key: values[0] if len(values) == 1 else values for key, values in facts.items() if values}


def _notes(ladder: Ladder, found: LadderGroup) -> Iterator[str]:
    """Yield what a reader must know beside the figures."""
    runs = [run for variant in found.variants for run in variant.runs]
    differ = [key for key in _SPEED_MATTERS if isinstance(ladder.environment.get(key), list)]
    if differ:
        said = "; ".join(f"{key}: {', '.join(map(str, ladder.environment[key]))}" for key in differ)
        yield f"the runs were made in different environments, so their speeds do not compare ({said})"
    base = found.baseline
    if base is not None:
        yield from _baseline_notes(base, found, ladder.metric)
    emulated = [variant.label for variant in ladder.variants if verdict.is_emulated(variant)]
    if emulated:
        yield f"emulated, so no speed is shown: {'; '.join(emulated)}"
    waiting = [variant.label for variant in ladder.variants if verdict.is_loader_bound(variant)]
    if waiting:
        yield f"the loader sets the pace of {'; '.join(waiting)}: precision cannot make it faster"
    running = sum(run.status == "running" for run in runs)
    if running:
        yield f"{words.counted(running, 'run')} still going on: not counted yet"
    planted = [run.path for run in runs if run.planted]
    if planted:
        yield f"planted faults, drills and no results: {', '.join(planted)}"
    if any(str(run.environment.get("device")).startswith("cpu") for run in runs):
        yield "on a CPU, peak memory is the whole process's, libraries included"


def _baseline_notes(base: Group, found: LadderGroup, metric: str) -> Iterator[str]:
    states = sorted({str(run.environment["tf32"]) for run in base.runs if "tf32" in run.environment})
    if states:
        yield f"baseline {base.label}: TF32 {' and '.join(states)}"
    unusable = [run.path for run in base.runs if run.status not in verdict.FINISHED or run.metric is None]
    if unusable:
        yield f"baseline {base.label}: without {metric} of {', '.join(unusable)}"
    seeds = {run.seed for run in base.runs}
    for each in found.variants:
        others = {run.seed for run in each.runs}
        if others != seeds:
            missing = [f"no seed {_seeds(seeds - others)}"] if seeds - others else []
            extra = [f"seed {_seeds(others - seeds)} beside the baseline's"] if others - seeds else []
            yield f"{each.label} has {' and '.join(missing + extra)}"


def _seeds(seeds: Iterable[int | None]) -> str:
    return ", ".join(map(str, sorted(seeds, key=lambda seed: -1 if seed is None else seed)))
