"""`mptrain verify-resume`: is a run of this config that is cut and resumed bit-equal to one that is not?

Owns: the three processes (see `verify_trace.py`), their temporary folder, and what of the config is set for the check.
Nothing is left behind, whatever happens. Must not: import torch; the processes do.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from mptrain.catalog import to_yaml
from mptrain.config.schema import RunConfig
from mptrain.errors import (
    ENDINGS,
    CapabilityError,
    ConfigError,
    DivergedError,
    Interrupted,
    MptrainError,
    Preempted,
)
from mptrain.trainer.signals import StopAtOnce, StoppedBySignal, Undisturbed
from mptrain.trainer.verify_compare import COMPONENTS, Comparison, compare

Part = Literal["whole", "cut", "resumed"]
_IN_WORDS: dict[Part, str] = {
    "whole": "training without a cut",
    "cut": "training to the cut",
    "resumed": "training on from the checkpoint",
}
# Modules are looked for where this process would, plugins beside the config included, and nowhere else: with -m or a
# script, a user's random.py in the current folder would hide the standard library's.
_PROGRAM = """\
import json, sys
job, path = sys.argv[1:]
sys.path = json.loads(path)
from mptrain.startup import pause_collection
pause_collection()
from mptrain.trainer.verify_trace import main
main(job)
"""


@dataclass(frozen=True)
class Job:
    """What one process is to do; travels as JSON."""

    part: Part
    config: str
    """Path of the resolved config."""
    checkpoints: str
    """Folder in which `cut` saves and `resumed` finds."""
    trace: str
    """Path of the file to write."""
    cut: int | None
    """Attempted steps before the cut; None: half of the steps."""


def verify_resume(
    config: RunConfig,
    *,
    steps: int,
    cut: int | None = None,
    tell: Callable[[str], None] = lambda words: None,
) -> dict[str, Any]:
    """Run `config` whole, cut, and resumed; return the first difference of each component.

    `tell` hears what is being done. Raises what ended one of the three runs, Preempted or Interrupted where this
    process was told to stop.
    """
    if cut is not None and cut >= steps:
        raise ConfigError(f"--cut: {cut} must be less than --steps, which is {steps}")
    with _temporary_folder() as folder:
        (folder / "config.yaml").write_text(to_yaml(checked_config(config, steps)))
        whole = _run("whole", folder, cut, tell)
        before = _run("cut", folder, whole["cut"], tell)
        after = _run("resumed", folder, whole["cut"], tell)
    return result_of(whole, compare(whole, before, after))


def checked_config(config: RunConfig, steps: int) -> RunConfig:
    """Return `config` with its steps as they are, in deterministic mode, `steps` of them, cut nowhere but by the check.

    The schedule keeps its length. A planted `sigterm` is left out: it would be a cut of its own.
    """
    train = {"deterministic": True, "stop_at_step": steps, "max_time": None, "early_stop": None}
    plant = tuple(fault for fault in config.debug.plant if fault.what != "sigterm")
    return config.model_copy(
        update={
            "train": config.train.model_copy(update=train),
            "checkpoint": config.checkpoint.model_copy(update={"every": None, "best": False, "enabled": True}),
            "log": config.log.model_copy(update={"every": 1}),
            "debug": config.debug.model_copy(update={"plant": plant}),
        }
    )


def result_of(whole: dict[str, Any], found: Comparison) -> dict[str, Any]:
    """Return the comparison as the command's JSON object."""
    ending = None if found.cause is None else DivergedError(found.verdict())
    return {
        "schema": 1,
        "status": ending.status if ending else "ok",
        "exit_code": ending.exit_code if ending else 0,
        "error": str(ending) if ending else None,
        "verdict": found.verdict(),
        "name": whole["name"],
        "device": whole["device"],
        "precision": whole["precision"],
        "steps": found.steps,
        "cut": found.cut,
        "components": {
            component: {
                "label": COMPONENTS[component],
                "equal": component not in found.differences,
                "compared": found.compared.get(component, ""),
                "first_difference": str(found.differences[component]) if component in found.differences else None,
            }
            for component in COMPONENTS
            if component in found.compared or component in found.differences
        },
    }


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    """Give a folder that is gone afterwards, also where a signal ends this process."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="mptrain-verify-"))
    except OSError as error:
        raise _cannot_write(error.strerror) from error
    try:
        with StopAtOnce():
            yield folder
    except OSError as error:
        raise _cannot_write(error.strerror) from error
    except StoppedBySignal as stopped:
        raise Preempted(f"stopped by {stopped}; nothing was verified, start it again") from None
    except KeyboardInterrupt:
        raise Interrupted("interrupted; nothing was verified") from None
    finally:
        with Undisturbed():
            shutil.rmtree(folder, ignore_errors=True)


def _cannot_write(reason: str | None) -> CapabilityError:
    return CapabilityError(f"cannot write to the temporary folder ({reason}); set TMPDIR to one with more space")


def _run(part: Part, folder: Path, cut: int | None, tell: Callable[[str], None]) -> dict[str, Any]:
    """Run one part in a process of its own and return its trace; raise what ended it."""
    tell(_IN_WORDS[part])
    job = Job(
        part=part,
        config=str(folder / "config.yaml"),
        checkpoints=str(folder / "checkpoints"),
        trace=str(folder / f"{part}.json"),
        cut=cut,
    )
    job_file, said = folder / f"{part}-job.json", folder / f"{part}-stderr"
    job_file.write_text(json.dumps(asdict(job)))
    command = [sys.executable, "-P", "-c", _PROGRAM, str(job_file), json.dumps(sys.path)]
    with said.open("wb") as stderr:
        code = _wait_for(command, stderr)
    try:
        outcome: dict[str, Any] = json.loads(Path(job.trace).read_bytes())
    except (OSError, ValueError):
        outcome = _how_it_died(code)
    if outcome["status"] == "ok":
        return outcome
    if outcome["status"] == "crashed":
        sys.stderr.write(said.read_text(errors="backslashreplace"))
    raise _failure(part, outcome)


def _wait_for(command: list[str], stderr: Any) -> int:
    """Run a command to its end, in a session of its own so that nothing of it outlives this call."""
    streams: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": stderr}
    # Its standard input closes when this process is gone, which is how it learns of that.
    with subprocess.Popen(command, **streams, start_new_session=True) as process:  # noqa: S603
        try:
            return process.wait()
        except BaseException:
            with Undisturbed():
                _kill_session(process)
            raise


def _kill_session(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:  # else its number may be another's by now
        os.killpg(process.pid, signal.SIGKILL) if hasattr(os, "killpg") else process.kill()
        process.wait()


def _how_it_died(code: int) -> dict[str, str]:
    """Return the ending of a process that could not write one itself."""
    if code == -signal.SIGKILL:
        return {"status": "oom", "error": "a process of the check was killed; the machine may have run out of memory"}
    if code == CapabilityError.exit_code:
        return {"status": CapabilityError.status, "error": str(_cannot_write("it may be full"))}
    said = f"it ended with code {code}" if code >= 0 else f"{signal.Signals(-code).name} ended it"
    return {"status": "crashed", "error": said}


def _failure(part: Part, outcome: dict[str, Any]) -> MptrainError:
    """Return what ended one of the runs as this command's own end; the whole run fails as `mptrain run` would."""
    kind = next((kind for kind in ENDINGS if kind.status == outcome["status"]), MptrainError)
    where = "" if part == "whole" and kind is not MptrainError else f"{_IN_WORDS[part]}: "
    if kind is ConfigError:
        return ConfigError([f"{where}{line}" for line in outcome["error"].splitlines()])
    return kind(f"{where}{outcome['error']}{_because_of_the_check(outcome['error'])}")


def _because_of_the_check(error: str) -> str:
    """Return what to add to an error whose remedy is not the one that it names."""
    if error.startswith("train.deterministic:"):
        return " (the check always sets train.deterministic: other runs differ without a cut)"
    if "cannot save" in error:
        return " (the check saves in a temporary folder: set TMPDIR to one with more space)"
    return ""
