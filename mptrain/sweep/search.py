"""Search: optuna chooses the values of each run from how the earlier ones ended, one study for each grid point.

Owns: the studies (`search.journal` in the output folder), what a trial's run is called, and when a run is hopeless.
Must not: start processes (`runner.py`). optuna is imported where a search is made.

Which way is better is known from the first result only, so the studies always minimise: a metric that is better when
higher is stored negated.
"""

from __future__ import annotations

import hashlib
import importlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mptrain.catalog import load_config, to_yaml
from mptrain.errors import CapabilityError, ConfigError, DataError, first_line
from mptrain.sweep.child import Outcome
from mptrain.sweep.folders import FAILED_FOR_GOOD, look
from mptrain.sweep.plan import PlannedRun, make_plan
from mptrain.sweep.request import Request, Space
from mptrain.sweep.rows import make_rows
from mptrain.sweep.runner import Row
from mptrain.sweep.summary import metric_of
from mptrain.sweep.values import Range
from mptrain.telemetry.files import cannot_write

JOURNAL = "search.journal"


@dataclass
class _Point:
    """A point of the grid with its study."""

    base: PlannedRun
    """The run without the searched values."""
    study: Any
    key: str
    """A few digits that are others for another search of the same point."""
    to_redo: list[Row] = field(default_factory=list)
    """Trials that an earlier sweep did not see to their end."""

    @property
    def sign(self) -> float | None:
        """What turns the metric into something to minimise; None while no result has told."""
        higher: bool | None = self.study.user_attrs.get("higher_is_better")
        return None if higher is None else -1.0 if higher else 1.0

    def learn(self, result: Mapping[str, Any] | None) -> None:
        """Take from a result which way is better."""
        main = (result or {}).get("main_metric")
        if self.sign is None and isinstance(main, Mapping):
            self.study.set_user_attr("metric", main["name"])
            self.study.set_user_attr("higher_is_better", main["higher_is_better"])


class OptunaSearch:
    """A source of runs (see `runner.Source`), and their rows: those of earlier trials are there from the beginning.

    Without `writes`, no journal is begun. Raises CapabilityError where optuna is not installed, ConfigError for values
    that no run can have, DataError for a damaged journal.
    """

    def __init__(self, request: Request, num_trials: int, output_dir: Path, *, writes: bool = True) -> None:
        self._optuna = _import_optuna()
        self._space, self._num_trials = request.space, num_trials
        plan = make_plan(request.configs, request.axes, common=request.common, output_dir=output_dir)
        _check_space(plan.runs, request.space)
        self.rows: list[Row] = []
        self._trials: dict[Path, tuple[_Point, Any]] = {}
        self._reported: dict[Path, int] = {}
        """Evaluations that the study knows of each run."""
        self._path = output_dir / JOURNAL
        storage = self._storage(writes)
        self._points = [self._point(base, storage) for base in plan.runs]

    @property
    def total(self) -> int:
        """The trials of all studies, those to come included."""
        return len(self._points) * self._num_trials

    def _storage(self, writes: bool) -> Any:
        if not (writes or self._path.exists()):
            return self._optuna.storages.InMemoryStorage()
        journal = importlib.import_module("optuna.storages.journal")
        with self._journal_read():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            return self._optuna.storages.JournalStorage(journal.JournalFileBackend(str(self._path)))

    @contextmanager
    def _journal(self) -> Iterator[None]:
        """Word what the system may say where optuna writes the journal."""
        try:
            yield
        except OSError as error:
            raise cannot_write(self._path, error) from error

    @contextmanager
    def _journal_read(self) -> Iterator[None]:
        """Word what optuna may say where it reads the whole journal."""
        try:
            with self._journal():
                yield
        except (ValueError, LookupError, TypeError) as error:
            said = f"{type(error).__name__}: {first_line(error)}"
            raise DataError(f"{self._path}: is damaged ({said}); move it away to search anew") from error

    def _point(self, base: PlannedRun, storage: Any) -> _Point:
        key = hashlib.sha256(f"{sorted(self._space.items())}{to_yaml(base.config)}".encode()).hexdigest()[:4]
        with self._journal_read():
            study = self._optuna.create_study(
                study_name=f"{base.config.name}/{base.run_id}_search-{key}",
                storage=storage,
                load_if_exists=True,
                pruner=self._optuna.pruners.MedianPruner(),
            )
        # The number of trials in the seed: a search that goes on must not draw the values of its beginning again.
        study.sampler = self._optuna.samplers.TPESampler(seed=len(study.trials))
        point = _Point(base, study, key)
        trials = [self._optuna.Trial(study, trial._trial_id) for trial in study.trials]
        runs = [self._run(point, trial, len(self.rows) + place) for place, trial in enumerate(trials, 1)]
        states = [trial.state for trial in study.trials]
        rows = make_rows(runs, look(runs))
        for row, trial, state in zip(rows, trials, states, strict=True):
            self._trials[row.run.run_dir] = point, trial
            if not state.is_finished():
                self._take_up(point, row)
            else:
                self._settle(row, state)
        self.rows += rows
        return point

    def _settle(self, row: Row, state: Any) -> None:
        """Show a trial as the study knows it, also where its folder is gone or says that it was stopped."""
        row.finished_before = True
        if state == self._optuna.trial.TrialState.PRUNED:
            row.prune()
        elif row.outcome is None:
            row.end(Outcome("ok" if state == self._optuna.trial.TrialState.COMPLETE else "diverged", 0))
            row.note = "its folder is gone"

    def _take_up(self, point: _Point, row: Row) -> None:
        """Account for a trial that an earlier sweep left open."""
        if row.state == "waiting":
            point.to_redo.append(row)
        elif row.finished_before:
            self.ended(row)

    def next(self) -> Row | None:
        """Return the next run: of the first grid point that has trials to go."""
        for point in self._points:
            if point.to_redo:
                return point.to_redo.pop(0)
            if len(point.study.get_trials(deepcopy=False)) < self._num_trials:
                with self._journal():
                    trial = point.study.ask()
                    for key, choices in self._space.items():
                        _suggest(trial, key, choices)
                row = Row(self._run(point, trial, len(self.rows) + 1))
                self._trials[row.run.run_dir] = point, trial
                self.rows.append(row)
                return row
        return None

    def _run(self, point: _Point, trial: Any, number: int) -> PlannedRun:
        base = point.base
        chosen = tuple(f"{key}={_written(value)}" for key, value in trial.params.items())
        overrides = (*base.overrides, *chosen)
        return replace(
            base,
            number=number,
            label=f"{base.label} trial {trial.number}: {' '.join(chosen)}",
            overrides=overrides,
            config=load_config(base.config_path, overrides).config,
            run_id=f"{base.run_id}_search-{point.key}-{trial.number:03}",
        )

    def is_hopeless(self, row: Row) -> bool:
        """Say whether a run is worse than the median of the others at the same evaluation."""
        point, trial = self._trials[row.run.run_dir]
        with self._journal():
            return self._report(row, point, trial) and bool(trial.should_prune())

    def _report(self, row: Row, point: _Point, trial: Any) -> bool:
        """Tell the study of a run's new evaluations; return whether there were any."""
        run_dir, evaluations = row.run.run_dir, row.progress.evaluations
        if run_dir not in self._reported:
            self._reported[run_dir] = len(point.study.trials[trial.number].intermediate_values)
        known = self._reported[run_dir]
        if point.sign is None or len(evaluations) <= known:
            return False
        for place in range(known, len(evaluations)):
            trial.report(point.sign * evaluations[place], place)
        self._reported[run_dir] = len(evaluations)
        return True

    def ended(self, row: Row) -> None:
        """Tell the study how a run ended; one that can be gone on with stays open for the next sweep."""
        assert row.outcome is not None
        point, trial = self._trials[row.run.run_dir]
        with self._journal():
            point.learn(row.outcome.result)
            self._report(row, point, trial)
            self._tell(row.outcome, point, trial)

    def _tell(self, outcome: Outcome, point: _Point, trial: Any) -> None:
        states, found = self._optuna.trial.TrialState, metric_of(outcome.result)
        if outcome.status == "pruned":
            point.study.tell(trial.number, state=states.PRUNED)
        elif outcome.status == "ok" and point.sign is not None and found is not None and found[1] is not None:
            point.study.tell(trial.number, point.sign * found[1])
        elif outcome.status in {"ok", *FAILED_FOR_GOOD}:
            point.study.tell(trial.number, state=states.FAIL)

    def findings(self) -> list[dict[str, Any]]:
        """Return what each study has found so far, as plain values."""
        return [self._finding(point) for point in self._points]

    def _finding(self, point: _Point) -> dict[str, Any]:
        states = Counter(trial.state.name.lower() for trial in point.study.trials)
        finding: dict[str, Any] = {"label": point.base.label, "trials": dict(states), "best": None}
        if states["complete"]:
            best, sign = point.study.best_trial, point.sign or 1.0
            run = self._run(point, self._optuna.Trial(point.study, best._trial_id), best.number)
            finding["best"] = {
                "metric": point.study.user_attrs["metric"],
                "value": sign * best.value,
                "label": run.label,
                "overrides": list(run.overrides),
                "run_dir": str(run.run_dir),
            }
        return finding


def _import_optuna() -> Any:
    try:
        optuna: Any = importlib.import_module("optuna")
    except ImportError:
        raise CapabilityError("--search optuna: it is not installed; pip install mptrain[search]") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _written(value: Any) -> str:
    """Return a chosen value as an override has it; six digits of a number are enough, and can be read."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _suggest(trial: Any, key: str, choices: Range | tuple[str, ...]) -> None:
    if isinstance(choices, tuple):
        trial.suggest_categorical(key, choices)
    elif choices.is_whole:
        trial.suggest_int(key, int(choices.low), int(choices.high), log=choices.log)
    else:
        trial.suggest_float(key, choices.low, choices.high, log=choices.log)


def _check_space(points: tuple[PlannedRun, ...], space: Space) -> None:
    """Raise ConfigError for the ends of ranges and the listed values that no run can have."""
    problems: dict[str, None] = {}
    for point in points:
        for overrides in _ends(space):
            try:
                load_config(point.config_path, (*point.overrides, *overrides))
            except ConfigError as error:
                problems |= dict.fromkeys(error.problems)
    if problems:
        raise ConfigError(list(problems))


def _ends(space: Space) -> Iterator[tuple[str, ...]]:
    """Yield overrides in which every end of a range and every listed value occurs."""
    values = {
        key: (str(choices.low), str(choices.high)) if isinstance(choices, Range) else choices
        for key, choices in space.items()
    }
    for place in range(max(map(len, values.values()))):
        yield tuple(f"{key}={listed[min(place, len(listed) - 1)]}" for key, listed in values.items())
