"""The fuzzer's command line: `python -m tests.fuzz [--examples N] [--seed N] [--repeat FILE]`.

Throws bad input at the real command line in two processes. The seed is printed; the same seed tries the same inputs.
Each find is printed with its input, made as small as it gets, and written to a file from which `--repeat` runs it
again. Exit code 0: nothing found; 1: something was.

Owns: processes, progress, the report. Must not: draw, run or judge a case.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

from tests.fuzz.case import Case
from tests.fuzz.strategies import KINDS
from tests.fuzz.worker import CURRENT, run_batch
from tests.fuzz.world import Find, World

BATCH = 200
"""Cases that one seed is for: small enough for a progress line every few seconds."""


def batches(examples: int, seed: int) -> Iterator[tuple[str, int, int]]:
    """Yield (kind, cases, seed) so that the kinds have their shares of all examples, and are mixed in time."""
    sizes = {kind: -(-examples * share // 100) for kind, (share, _) in KINDS.items()}
    while any(sizes.values()):
        for kind, size in sizes.items():
            cases = min(size, BATCH)
            if cases:
                yield kind, cases, seed
                sizes[kind] -= cases
                seed += 1


def fuzz(examples: int, seed: int, processes: int) -> int:
    """Try `examples` cases and return how many finds there were."""
    codes: Counter[int] = Counter()
    finds: set[str] = set()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mptrain-fuzz-", ignore_cleanup_errors=True) as folder:
        try:
            with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
                waiting = [pool.submit(run_batch, *batch, folder) for batch in batches(examples, seed)]
                for future in as_completed(waiting):
                    done = future.result()
                    codes += done.codes
                    for look in done.finds.keys() - finds:
                        finds.add(look)
                        _report(done.finds[look])
                    _progress(codes, examples, len(finds), time.monotonic() - began)
        except BrokenProcessPool:
            for file in Path(folder).glob(f"*/{CURRENT}"):
                _report(
                    Find(
                        "the process died or hung while it ran this, or another one did",
                        Case.from_json(file.read_text()),
                    )
                )
                finds.add(file.name)
    return len(finds)


def _progress(codes: Counter[int], examples: int, finds: int, seconds: float) -> None:
    shares = ", ".join(f"{code}: {count:,}" for code, count in sorted(codes.items()))
    print(f"{codes.total():,}/{examples:,} inputs, {finds} finds, {seconds:.0f} s; exit codes {shares}", flush=True)


def _report(find: Find) -> None:
    with tempfile.NamedTemporaryFile("w", prefix="mptrain-find-", suffix=".json", delete=False) as file:
        file.write(find.case.to_json())
    print(f"\nFOUND: {find}\nrepeat: python -m tests.fuzz --repeat {file.name}\n", flush=True)


def repeat(file: Path) -> int:
    """Run the case in `file` again and return how many finds there were."""
    case = Case.from_json(file.read_text())
    with tempfile.TemporaryDirectory(prefix="mptrain-fuzz-") as folder:
        try:
            print(f"held: exit code {World(Path(folder)).check(case)}")
        except Find as find:
            print(f"FOUND: {find}")
            return 1
    return 0


def main() -> int:
    """Read the options, fuzz or repeat, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Throw bad input at mptrain.")
    parser.add_argument("--examples", type=int, default=20_000, help="inputs to try")
    parser.add_argument(
        "--seed", type=int, default=secrets.randbelow(10**9), help="the same seed tries the same inputs"
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--repeat", type=Path, metavar="FILE", help="run one find again and leave")
    options = parser.parse_args()
    if options.repeat:
        return repeat(options.repeat)
    print(f"seed {options.seed}; again with: python -m tests.fuzz --examples {options.examples} --seed {options.seed}")
    return 1 if fuzz(options.examples, options.seed, options.processes) else 0


if __name__ == "__main__":
    sys.exit(main())
