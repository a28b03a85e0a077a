"""The folder that cases run in, and what must hold whatever they hold: a code of the table, a readable error line, no
traceback, no hang, and not one file touched outside the run's folder.

Owns: running one case through the real entry point, and judging it by these rules alone. Must not: draw cases.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from mptrain.catalog import load_config, to_yaml
from mptrain.cli.app import run as mptrain
from tests.cli.small_run import strict
from tests.fuzz.case import CHECKPOINT, CONFIG_FILE, Case
from tests.fuzz.damage import inflict
from tests.fuzz.limits import SECONDS, bounded_memory, watchdog

CODES = frozenset({0, 2, 3, 4, 5, 6, 75, 130})
"""The table of exit codes without 1, a bug."""
_SHOWN = 3000
"""Characters of stderr that a find shows, from its end."""
_CONFIGS = Path(__file__).parents[2] / "configs"
_WRITTEN = ("--output-dir", "--output", "--predictions")
"""Options whose value is a place that the command may write to, beside runs/."""
_TRAIN = "train: {max_steps: 6}\nlog: {every: 2, numerics_every: 0}\ncheckpoint: {every: 2}\ndevice: cpu\n"
_SMALL = f"""\
model: {{name: mlp, hidden: [4], norm: batch}}
data: {{name: synthetic, input_shape: [8], num_outputs: 4, num_train: 40, num_test: 10, batch_size: 8}}
task: classification
optimizer: {{name: adamw, lr: 0.01}}
schedule: constant
ema: 0.9
{_TRAIN}"""
_LANGUAGE = f"""\
model: {{name: gpt, width: 8, depth: 1, heads: 2}}
data: {{name: text_files, train: text.txt, context: 8, batch_size: 8}}
task: language_modelling
optimizer: {{name: adamw, lr: 0.01}}
schedule: constant
{_TRAIN}"""


@dataclass(frozen=True)
class Outcome:
    """What one command did."""

    code: int
    out: str
    err: str
    too_slow: bool


class Find(AssertionError):
    """A case that broke a rule."""

    def __init__(self, problem: str, case: Case, outcome: Outcome | None = None) -> None:
        super().__init__(problem, case, outcome)  # all, so that it survives the way from one process to another
        self.problem, self.case, self.outcome = problem, case, outcome

    def __str__(self) -> str:
        said = f"exit code {self.outcome.code}\n{self.outcome.err[-_SHOWN:]}" if self.outcome else ""
        return f"{self.problem}\n{said}\ninput: {self.case}"

    @property
    def is_hang(self) -> bool:
        """Say whether the watchdog had to end it."""
        return self.outcome is not None and self.outcome.too_slow

    @property
    def look(self) -> str:
        """Return what finds of one cause have in common: the rule, and where mptrain stood last."""
        frames = re.findall(r"mptrain/(\S+)\", line (\d+)", self.outcome.err if self.outcome else "")
        return f"{self.problem} {':'.join(frames[-1]) if frames else ''}"


class World:
    """A folder `here` that every case finds as the first one did, two levels below `root`, and saved runs to damage."""

    def __init__(self, root: Path) -> None:
        self._inside = root / "inside"
        self._here = self._inside / "here"
        self._targets = self._inside / "targets"
        self._saved = root / "saved"
        self._make_folder()
        for name in ("small", "language"):
            self._must_work("run", f"{name}.yaml", "--quiet", "--run-id", "a", "--max-steps", "4")
            self._must_work("eval", f"runs/{name}/a")
            self._must_work("export", f"runs/{name}/a", "--output", "out")
        self._must_work("sample", "runs/language/a", "--tokens", "1")
        shutil.move(self._here / "runs", self._saved)
        self._make_folder()

    def check(self, case: Case) -> int:
        """Run `case` and return its exit code; raise Find where it breaks a rule."""
        try:
            return self._try(case)
        except Find as find:
            if not find.is_hang:
                raise
        return self._try(case)  # what is imported for the first time, on a busy machine, is no hang

    def _try(self, case: Case) -> int:
        """Run `case`, and leave a whole folder behind whatever becomes of it."""
        try:
            return self._run(case)
        except BaseException:
            self._make_folder()
            raise

    def _run(self, case: Case) -> int:
        """Run `case` once, judge it, clean up what it was allowed to write, and return its exit code."""
        if case.config is not None:
            (self._here / CONFIG_FILE).write_bytes(case.config)
        command = self._prepare(case)
        before = self._watched(case)
        outcome = self._call(command)
        touched = sorted(path for path, state in (before ^ self._watched(case)))
        problem = f"touched outside of the run: {touched}" if touched else self._problem(case, command, outcome)
        if problem:
            raise Find(problem, case, outcome)
        self._clean()
        return outcome.code

    # The folder -------------------------------------------------------------------------------------------------------
    def _make_folder(self) -> None:
        shutil.rmtree(self._inside, ignore_errors=True)
        shutil.copytree(_CONFIGS, self._here)
        self._targets.mkdir()
        (self._here / "small.yaml").write_text(_SMALL)
        (self._here / "language.yaml").write_text(_LANGUAGE)
        (self._here / "text.txt").write_text("abcdefghij" * 40)
        self._own = {path.name for path in self._here.iterdir()}

    def _prepare(self, case: Case) -> list[str]:
        """Put a damaged copy of the saved run in place where the kind of case has one; return the command for it."""
        if case.kind not in ("resume", "reading"):
            return list(case.command)
        name = "language" if case.command[0] == "sample" else "small"
        run_dir = Path("runs", name, "a")
        here = self._here / run_dir
        shutil.copytree(self._saved / name / "a", here)
        checkpoints = sorted((here / "checkpoints").iterdir())
        places = {"{run}": run_dir} | {
            CHECKPOINT % number: run_dir / "checkpoints" / checkpoints[number % len(checkpoints)].name
            for number in range(3)
        }
        for damage in case.damages:
            inflict(damage, here, self._targets)
        return [_placed(word, places) for word in case.command]

    def _clean(self) -> None:
        """Remove what a case may leave; everything else was found untouched."""
        left = [path for path in self._here.iterdir() if path.name not in self._own]
        for path in [*left, *self._targets.iterdir()]:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    def _may_write(self, case: Case) -> set[Path]:
        """Return what in `here` the command may make: runs/, and what an option names that was not there before."""
        words = case.command
        named = [Path(words[at + 1]).parts[:1] for at, word in enumerate(words[:-1]) if word in _WRITTEN]
        return {
            self._here / name
            for name in ("runs", *(part for parts in named for part in parts))
            if name not in self._own
        }

    def _watched(self, case: Case) -> set[tuple[str, tuple[int, ...]]]:
        """Return every file that the case may not touch, with what changes when it is touched."""
        allowed = self._may_write(case)
        linked = self._targets / "linked"
        found = set()
        for folder, folders, files in os.walk(self._inside):
            here = Path(folder)
            folders[:] = [name for name in folders if here / name not in allowed]
            # A linked folder is how users put checkpoints on another disk: there, only what is not a run's is watched.
            for name in ["kept"] if here == linked else files if linked not in here.parents else []:
                path = here / name
                if path not in allowed and (here != linked or name in files):
                    info = path.lstat()
                    found.add((str(path), (info.st_mode, info.st_size, info.st_mtime_ns, info.st_ino)))
            found |= {(str(here / name), (0,)) for name in folders if here != linked and linked not in here.parents}
        return found

    # The command ------------------------------------------------------------------------------------------------------
    def _call(self, command: list[str]) -> Outcome:
        """Run one command line in `here`, with streams as strict as a process's own."""
        out = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)
        err = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace", write_through=True)
        with (
            _settings_kept(self._here),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            bounded_memory(),
            watchdog(SECONDS) as watch,
        ):
            code = mptrain(command)
        texts = [stream.buffer.getvalue().decode("utf-8") for stream in (out, err)]  # type: ignore[attr-defined]
        return Outcome(code, texts[0], texts[1], watch.barked)

    def _must_work(self, *command: str) -> None:
        out, err = io.StringIO(), io.StringIO()
        with _settings_kept(self._here), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = mptrain(command)
        assert code == 0, (command, err.getvalue())

    # The rules --------------------------------------------------------------------------------------------------------
    def _problem(self, case: Case, command: list[str], outcome: Outcome) -> str | None:
        """Return the rule that the outcome breaks, in words."""
        errors = outcome.err.split("\n")
        if outcome.too_slow:
            return f"took more than {SECONDS} s"
        if "Traceback" in outcome.out + outcome.err:
            return "a traceback"
        if outcome.code not in CODES:
            return f"exit code {outcome.code}"
        if not all(line.isprintable() for line in errors):
            return "a line on stderr is not printable"
        if outcome.code and not any(line.startswith("error: ") for line in errors):
            return f"exit code {outcome.code} without an error line"
        if "--json" in command:
            return _json_problem(outcome)
        if command[0] == "show" and outcome.code == 0:
            return self._round_trip_problem(command, outcome)
        return self._record_problem(outcome) if case.kind == "run" else None

    def _round_trip_problem(self, command: list[str], outcome: Outcome) -> str | None:
        """Return what is wrong with a config that does not survive its own YAML, with and without comments."""
        with _settings_kept(self._here):
            config = load_config(Path(command[1]), command[2:]).config
            copy = Path("runs/copy.yaml")
            copy.parent.mkdir()
            for text in (to_yaml(config), outcome.out):
                copy.write_text(text, encoding="utf-8")
                if load_config(copy).config != config:
                    return "the config did not survive its own YAML"
        return None

    def _record_problem(self, outcome: Outcome) -> str | None:
        """Return what is wrong with the record of a new run."""
        for config in self._here.glob("runs/*/*/config.yaml"):
            result = strict(config.with_name("result.json").read_text())
            if result["exit_code"] != outcome.code:
                return f"result.json says exit code {result['exit_code']}"
        return None


def _json_problem(outcome: Outcome) -> str | None:
    lines = outcome.out.splitlines()
    if len(lines) != 1:
        return f"--json printed {len(lines)} lines"
    return None if strict(lines[0])["exit_code"] == outcome.code else "--json says another exit code"


def _placed(word: str, places: dict[str, Path]) -> str:
    for name, path in places.items():
        word = word.replace(name, str(path))
    return word


@contextlib.contextmanager
def _settings_kept(folder: Path) -> Iterator[None]:
    """Stand in `folder`, and leave the process's own settings as they were."""
    before, path = os.getcwd(), list(sys.path)
    deterministic = torch.are_deterministic_algorithms_enabled()
    os.chdir(folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of odd state: a process prints them and goes on
            yield
    finally:
        os.chdir(before)
        sys.path[:] = path
        torch.use_deterministic_algorithms(deterministic)
