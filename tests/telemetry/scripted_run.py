"""A process that tells a console the story of a run; the terminal tests watch what it shows.

Run it as `python -m tests.telemetry.scripted_run`; with --pause it waits for a line on stdin before it ends.
"""

import argparse
import logging
import math
import os
import sys
import time
import warnings

from mptrain.telemetry.console import make_console
from tests.telemetry.records import evaluation, overflow, progress, result, run_info


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=312)
    parser.add_argument("--pace", type=float, default=0.0)
    for flag in (
        "pause",
        "emulated",
        "planted",
        "unscaled",
        "slow-loader",
        "warn",
        "quiet",
        "json",
        "fork",
        "last-words",
    ):
        parser.add_argument(f"--{flag}", action="store_true")
    args = parser.parse_args()

    logging.getLogger("scripted").addHandler(logging.StreamHandler())  # keeps the stderr of now, as torch's do
    console = make_console(quiet=args.quiet, json_output=args.json)
    console.begin(
        run_info(
            planted=("inf_grad at 12",) if args.planted else (),
            notices=("fp16 convolutions are slow on this CPU; use precision=bf16",) if args.planted else (),
            emulated=args.emulated,
        )
    )
    for step in range(1, args.steps + 1):
        now = progress(
            step,
            loss=0.3 + 2.0 * math.exp(-step / 90),
            loss_scale=None if args.unscaled else 32768.0,
            grad_norm=None if args.unscaled else 1.234,
            data_wait_fraction=0.42 if args.slow_loader else 0.003,
        )
        console.progress(now)
        if step == 12:
            console.event(overflow())
        if step % 50 == 0:
            console.window(now)
        if step % 78 == 0:
            console.evaluated(evaluation(applied_steps=step, metrics={"loss": 0.41, "accuracy": 0.8 + step / 4000}))
        if args.warn and step == 100:
            warnings.warn("a warning from the training code", stacklevel=1)
            print("printed by the training code")
            logging.getLogger("scripted").warning("a logged warning")
        time.sleep(args.pace)
    if args.fork:
        worker = os.fork()
        if worker == 0:
            print("written by a worker", file=sys.stderr, flush=True)
            os._exit(0 if sys.stderr is sys.__stderr__ else 1)
        assert os.waitpid(worker, 0)[1] == 0, "the worker writes through the parent's view"
    if args.pause:
        sys.stdin.readline()
    console.end(result())
    if args.last_words:
        print("printed after the end")


if __name__ == "__main__":
    main()
