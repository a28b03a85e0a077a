"""`mptrain watch`: the live view of a run from another terminal. Must not: import torch, or write to the run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

POLL_S = 1.0
"""Between two looks at the run's folder."""


def watch(
    run_dir: Annotated[
        Path, typer.Argument(metavar="RUN_DIR", help="A run's folder, or one above: then the newest run.")
    ] = Path("runs"),
) -> None:
    """Show a run that goes on in another process, or has ended.

    Ends with the run, or with Ctrl-C or SIGTERM, which the run does not notice; exit code 0 in all cases. Only reads.
    """
    from mptrain.telemetry.console import make_view
    from mptrain.telemetry.watch import KILLED, Follower
    from mptrain.trainer.run_lock import is_held, last_status
    from mptrain.trainer.signals import StopAtOnce, StoppedBySignal

    folder = _newest_run(run_dir)
    follower = Follower(folder, make_view)
    try:
        with StopAtOnce():
            while follower.take_in(running=is_held(folder)):
                time.sleep(POLL_S)
    except (KeyboardInterrupt, StoppedBySignal):
        follower.leave("left")
        return
    except BaseException:
        follower.leave("stopped")  # the terminal is given back before the error is told
        raise
    if not follower.has_begun:
        status = last_status(folder)
        print(f"{folder}: {KILLED if status == 'killed' else f'{status} before the first step; see its result.json'}")


def _newest_run(path: Path) -> Path:
    """Return the run that was started or resumed last at or below a folder; raise ConfigError where there is none."""
    from mptrain.report.runs import CONFIG, find_runs

    def began(run: Path) -> float:
        try:
            return (run / CONFIG).stat().st_mtime_ns
        except OSError:  # it has just been removed
            return 0

    return max(find_runs([path]), key=began)
