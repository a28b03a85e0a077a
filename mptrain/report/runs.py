"""Run folders -> what a report needs of each run, in bounded memory, by as many processes as there are cores.

Owns: finding run folders, and reading one. Must not: compare runs, or import torch, numpy or pydantic models.

Only settings come from config.yaml; what was in force comes from result.json (plan.json for a run without one). What a
killed or running run has not written yet comes from its last logged window.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from mptrain.errors import ConfigError, DataError
from mptrain.precision.in_force import InForce
from mptrain.report import records
from mptrain.report.format_range import format_range
from mptrain.report.model import Curve, GradientHistogram
from mptrain.report.settings import read_settings
from mptrain.report.thinning import POINTS, BucketMeans, thinned
from mptrain.trainer.run_lock import run_status

CONFIG = "config.yaml"
SKIPS = ("overflow", "nonfinite_loss")
"""Kinds of events.jsonl that stand for a skipped step."""
_LARGEST = 1e150
"""A metric beyond it (perplexity overflows last) counts as not finite: its square would be no number."""
_POOL_BYTES = 200_000_000
"""Below this much to read, starting a second process takes longer than it saves."""


class Evaluated(NamedTuple):
    """One evaluation's value of the metric."""

    step: int
    seconds: float | None
    """Training time until then."""
    value: float | None


@dataclass(frozen=True, slots=True)
class Run:
    """One run as its folder has it."""

    path: str
    settings: Mapping[str, Any]
    """The whole config, by dotted key; what `auto` stood for in place of it."""
    status: str
    error: str | None
    ended: float
    """When its newest record was written; seconds since the epoch."""
    precision: InForce | None
    environment: Mapping[str, Any]
    planted: bool
    metric_name: str | None
    higher_is_better: bool | None
    metric_names: tuple[str, ...]
    """All that its evaluations have."""
    metric: float | None
    metric_recorded: bool
    """False: its last evaluation has no such metric, not even one that is not finite."""
    evaluations: tuple[Evaluated, ...]
    train_loss: float | None
    samples_per_s: float | None
    step_time_ms: float | None
    peak_memory_bytes: int | None
    skipped_steps: int | None
    attempted_steps: int | None
    applied_steps: int | None
    final_loss_scale: float | None
    data_wait_fraction: float | None
    wall_s: float | None
    loss: Curve
    loss_scale: Curve
    skips: tuple[int, ...]
    gradients: GradientHistogram | None

    @property
    def seed(self) -> int | None:
        """Return the run's seed."""
        seed = self.settings.get("seed")
        return seed if isinstance(seed, int) else None


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """Return every run folder among and below `paths`, each once, sorted within each path.

    A folder with a config.yaml is a run, and is not searched. Raises ConfigError naming each path without one.
    """
    found: dict[str, Path] = {}
    problems = []
    for path in paths:
        if not os.path.exists(path):
            problems.append(f"{path}: does not exist; name a run folder or a folder above runs")
        elif not os.path.isdir(path):
            problems.append(f"{path}: is a file; name a run folder or a folder above runs")
        else:
            below = list(runs_below(path))
            found |= {os.path.realpath(run): run for run in below if os.path.realpath(run) not in found}
            if not below:
                problems.append(f"{path}: no run is in it: no folder there has a {CONFIG}")
    if problems:
        raise ConfigError(problems)
    return list(found.values())


def runs_below(path: Path) -> Iterator[Path]:
    """Yield the run folders at or below a folder, sorted; then those that cannot be searched, for readers to name."""
    closed: list[OSError] = []
    for folder, names, files in os.walk(path, onerror=closed.append):
        if CONFIG in files:
            names.clear()
            yield Path(folder)
        names.sort()
    yield from (Path(error.filename) for error in closed)


def read_runs(folders: Sequence[Path], metric: str | None = None) -> tuple[list[Run], list[str]]:
    """Return the runs that can be read, and for each other one `path:line: what is wrong`."""
    answers: list[Run | str]
    workers = min(os.cpu_count() or 1, len(folders))
    if workers > 1 and sum(map(_bytes, folders)) > _POOL_BYTES:
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor

        # Not fork: whoever calls this may have threads.
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            answers = list(pool.map(_read_or_say, folders, [metric] * len(folders), chunksize=4))
    else:
        answers = [_read_or_say(folder, metric) for folder in folders]
    runs = [answer for answer in answers if isinstance(answer, Run)]
    return runs, [answer for answer in answers if isinstance(answer, str)]


def _bytes(folder: Path) -> int:
    try:
        return os.stat(folder / "metrics.jsonl").st_size
    except OSError:
        return 0


def _read_or_say(folder: Path, metric: str | None) -> Run | str:
    try:
        return read_run(folder, metric)
    except DataError as error:
        return str(error)


def read_run(folder: Path, metric: str | None = None) -> Run:
    """Return the run in `folder`, judged by `metric` (its own main metric where None); raise DataError for damage."""
    status = run_status(folder)  # before its files: what a living run writes meanwhile is not missed, only not shown
    settings = read_settings(folder / CONFIG)
    result = None if status == "running" else records.read_object(folder / "result.json", records.Result)
    history = _History(folder, metric)
    last, evaluation = history.last, history.last_evaluation
    name = metric or (result.main_metric.name if result and result.main_metric else None) or history.main_metric
    metrics = (result.metrics if result else None) or (evaluation.metrics if evaluation else {})
    in_force = result.precision if result and result.precision else records.read_object(folder / "plan.json", InForce)
    emulated = in_force is not None and in_force.backend == "emulated"
    if in_force is not None and settings.get("precision.mode") == "auto" and not settings.get("precision.phases"):
        settings["precision.mode"] = in_force.mode  # a run that asked for it by name is no other variant
    return Run(
        path=str(folder),
        settings=settings,
        status=status,
        error=result.error if result else None,
        ended=newest_write(folder),
        precision=in_force,
        environment=_environment(folder, result, in_force),
        planted=bool(result and result.planted) or bool(settings.get("debug.plant")),
        metric_name=name,
        higher_is_better=_direction(name, result, history),
        metric_names=tuple(key for key, value in metrics.items() if isinstance(value, float)),
        metric=_number(metrics, name),
        metric_recorded=name in metrics,
        evaluations=tuple(history.evaluations),
        loss=history.loss.curve(),
        loss_scale=history.loss_scale_curve(),
        skips=tuple(thinned(history.skips)),
        gradients=history.gradients(),
        **_figures(result, last, emulated),
    )


def _figures(result: records.Result | None, last: records.Train | None, emulated: bool) -> dict[str, Any]:
    """Return the figures of result.json, or those of the last logged window where a run has no (whole) result."""
    if result is not None and result.attempted_steps is not None:
        source: Any = result
        step_time, loss, scale = result.step_time_ms.median, result.train_loss, result.final_loss_scale
    else:
        source = last
        step_time = last.step_time_ms if last else None
        loss = last.loss if last else None
        scale = last.loss_scale if last else None
    names = ("peak_memory_bytes", "skipped_steps", "attempted_steps", "applied_steps", "data_wait_fraction", "wall_s")
    return {
        "train_loss": loss,
        "final_loss_scale": scale,
        "step_time_ms": None if emulated else step_time,
        "samples_per_s": None if emulated or source is None else source.samples_per_s,
        **{name: getattr(source, name, None) for name in names},
    }


def _number(metrics: Mapping[str, Any], name: str | None) -> float | None:
    value = metrics.get(name) if name else None
    return value if isinstance(value, float) and abs(value) < _LARGEST else None


def _direction(name: str | None, result: records.Result | None, history: _History) -> bool | None:
    """Return whether more of `name` is better: as recorded, or as the evaluations that improved tell."""
    if result and result.main_metric and result.main_metric.name == name:
        return result.main_metric.higher_is_better
    return history.better_when_higher if name == history.main_metric else None


def newest_write(folder: Path) -> float:
    """Return when a run last wrote, in seconds since the epoch."""
    times = []
    for name in ("result.json", "metrics.jsonl", CONFIG):
        try:
            times.append(os.stat(folder / name).st_mtime)
        except OSError:
            continue
    return max(times, default=0.0)


def _environment(folder: Path, result: records.Result | None, in_force: InForce | None) -> dict[str, Any]:
    """Return device, versions and TF32 state, as far as the run wrote them."""
    info = records.read_object(folder / "run.json", records.RunInfo)
    found = records.read_object(folder / "env.json", records.Environment)
    device = result.device if result and result.device else info.device if info else None
    shown: dict[str, Any] = {"device": device}
    if found is not None:
        shown |= {"cpu": found.cpu, "platform": found.platform, "torch_threads": found.torch_threads}
        shown |= {name: found.versions.get(name) for name in ("mptrain", "torch", "python")}
    if in_force is not None:
        shown["tf32"] = "on" if "tf32" in in_force.tf32.values() else "off"
    return shown


class _History:
    """What metrics.jsonl and events.jsonl tell, record by record."""

    def __init__(self, folder: Path, metric: str | None) -> None:
        self._folder, self._metric = folder, metric
        self.loss = BucketMeans()
        self.last: records.Train | None = None
        self.last_evaluation: records.Eval | None = None
        self.evaluations: list[Evaluated] = []
        self.skips: list[int] = []
        self.main_metric: str | None = None
        self.better_when_higher: bool | None = None
        self._best: float | None = None
        self._first_scale: tuple[int, float] | None = None
        self._scales: list[tuple[int, float]] = []
        self._seconds_before = 0.0
        """Training time of the processes before the one that wrote the last record (resumed runs)."""
        self._numerics: msgspec.Raw | None = None
        for chunk in records.read_lines(folder / "metrics.jsonl", records.METRICS):
            self._take_in(chunk)
        for events in records.read_lines(folder / "events.jsonl", records.EVENTS):
            for event in events:
                self._take_in_event(event)

    def _take_in(self, chunk: list[records.Train | records.Eval]) -> None:
        add, last = self.loss.add, self.last
        numerics = None
        for record in chunk:
            if isinstance(record, records.Eval):
                self.last = last
                self._take_in_evaluation(record)
                continue
            add(record.applied_steps, record.loss)
            if last is None:
                if record.loss_scale is not None:
                    self._first_scale = (record.applied_steps, record.loss_scale)
            elif record.wall_s < last.wall_s:
                self._seconds_before += last.wall_s
            last, numerics = record, record.numerics
        self.last = last
        if numerics is not None:
            self._numerics = numerics.copy()  # a view would keep the whole chunk in memory

    def _take_in_evaluation(self, record: records.Eval) -> None:
        self.main_metric, self.last_evaluation = record.main_metric, record
        value = _number(record.metrics, self._metric or record.main_metric)
        self.evaluations.append(Evaluated(record.applied_steps, self._seconds_at(record.applied_steps), value))
        score = _number(record.metrics, record.main_metric)
        if score is None:
            return
        if record.improved:
            if self._best is not None and score != self._best:
                self.better_when_higher = score > self._best
            self._best = score
        elif self._best is not None and score != self._best and self.better_when_higher is None:
            self.better_when_higher = score < self._best

    def _seconds_at(self, step: int) -> float | None:
        """Return the training time at an applied step since the last window, at that window's pace."""
        if self.last is None:
            return None
        since = (step - self.last.applied_steps) * (self.last.step_time_ms or 0.0) / 1000
        return self._seconds_before + self.last.wall_s + since

    def _take_in_event(self, event: records.Event) -> None:
        if event.kind in SKIPS:
            self.skips.append(event.attempted_step)
        elif event.kind == "scale_change":
            change = records.decode(self._folder / "events.jsonl", event.data, records.ScaleChange)
            if not self._scales and self._first_scale:
                self._first_scale = (0, change.before)
            self._scales.append((event.applied_steps, change.after))

    def loss_scale_curve(self) -> Curve:
        """Return the scale at the start, after each change, and at the end."""
        if self._first_scale is None or self.last is None or self.last.loss_scale is None:
            return Curve()
        end = (self.last.applied_steps, self.last.loss_scale)
        points = [self._first_scale, *thinned(self._scales)[: POINTS - 2], end]
        return Curve(tuple(step for step, _ in points), tuple(scale for _, scale in points))

    def gradients(self) -> GradientHistogram | None:
        """Return the newest histogram of the gradients, where it was recorded and its format is known."""
        path = self._folder / "metrics.jsonl"
        if self._numerics is None or bytes(self._numerics) == b"null":
            return None
        sample = records.decode(path, self._numerics, records.Numerics)
        bounds = format_range(sample.format)
        if sample.histogram is None or bounds is None:
            return None
        first, counts, zeros = sample.histogram.first_exponent, sample.histogram.counts, sample.histogram.zeros
        return GradientHistogram(sample.format, first, tuple(counts), zeros, *bounds, sample.loss_scale)
