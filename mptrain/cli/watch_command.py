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

    Ends with the run, or with Ctrl-C, which the run does not notice; exit code 0 in both cases. Only reads.
    """
    from mptrain.telemetry.console import make_view
    from mptrain.telemetry.watch import Follower
    from mptrain.trainer.run_lock import is_held, last_status

    folder = _newest_run(run_dir)
    follower = Follower(folder, make_view)
    try:
        while follower.take_in(running=is_held(folder)):
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        follower.leave("left")
        return
    except BaseException:
        follower.leave("stopped")  # the terminal is given back before the error is told
        raise
    if not follower.has_begun:
        print(f"{folder}: {last_status(folder)} before the first step; see its result.json")


def _newest_run(path: Path) -> Path:
    """Return the run that was started or resumed last at or below a folder; raise ConfigError where there is none."""
    from mptrain.report.runs import CONFIG, find_runs

    return max(find_runs([path]), key=lambda run: (run / CONFIG).stat().st_mtime_ns)
