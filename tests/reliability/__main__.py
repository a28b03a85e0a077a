"""All drills, and the table of docs/reliability.md: `python -m tests.reliability` (`make reliability`).

Each row is a fault, how often it was tried, and what was lost: nothing, or the exit code is 1. What the peers do on
five of the faults is measured by benchmarks/faults, whose record stands beside them.

Owns: which drills there are, and the table. Must not: know how a drill is done.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import traceback
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.reliability import lives
from tests.reliability.power_cuts import ENDINGS, SCENARIOS, die_at_every_call
from tests.reliability.signals import heed_signals

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"
PEERS = ROOT / "benchmarks" / "faults" / "record.json"
BEGIN, END = "<!-- drills -->", "<!-- end of drills -->"
SIGNALS = ("SIGTERM", "SIGUSR1", "SIGHUP", "SIGINT")


@dataclass(frozen=True)
class Drill:
    """One row of the table."""

    fault: str
    run: Callable[[Path], int]
    """Tries it in an empty folder; returns how often; raises AssertionError where something is lost."""
    same_as: str | None = None
    """The fault of benchmarks/faults that is this one."""


def tests(*selection: str) -> Callable[[Path], int]:
    """Return a drill that runs tests, all of which must pass; as often as there are tests."""

    def run(folder: Path) -> int:
        report = folder / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *selection]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-3000:]
        suite = ET.parse(report).getroot()[0]
        return int(suite.attrib["tests"]) - int(suite.attrib["skipped"])

    return run


def kills(count: int, *settings: str) -> Callable[[Path], int]:
    """Return a drill of that many kills in one run."""

    def run(folder: Path) -> int:
        lives.kill_at_random(folder, count, count, *settings)
        return count

    return run


def stops(folder: Path) -> int:
    """Send every signal at several moments."""
    for number in range(5):
        for name in SIGNALS:
            lives.stop_at_random(folder / f"{name}{number}", number, name, number)
    return 5 * len(SIGNALS)


def deaths(folder: Path) -> int:
    """Let saves die at each of their system calls."""
    cases = [(scenario, ending) for scenario in SCENARIOS for ending in ENDINGS]
    return sum(die_at_every_call(*case, folder / str(number)) for number, case in enumerate(cases))


DRILLS: Sequence[Drill] = (
    Drill("SIGKILL at a random moment of a run that saves every 2 steps", kills(120), "kill during save"),
    Drill("the same, saving beside training (`checkpoint.async`)", kills(80, "checkpoint.async=true")),
    Drill("death of a save at each of its system calls: killed, within a write, power cut", deaths),
    Drill("SIGTERM, SIGUSR1, SIGHUP, Ctrl-C at a random moment; resumed", stops),
    Drill(
        "the newest checkpoint damaged (truncated, a bit flipped, empty, a part missing, foreign, of another model, "
        "of a newer version, with code in it, ...)",
        tests("tests/cli/test_resume.py", "-k", "damaged"),
        "truncated newest",
    ),
    Drill(
        "FP16 with overflows before and after a cut: scale and growth counter",
        tests("tests/trainer/test_resume.py", "-k", "equals_the_uninterrupted_run and fp16"),
        "scaler state",
    ),
    Drill(
        "cut in mid-epoch, at its end, within a window, in an evaluation; 0 and 2 workers; every mode: sample "
        "order, state and losses",
        tests(
            "tests/trainer/test_resume.py",
            "tests/trainer/test_saving.py",
            "tests/trainer/test_verify_resume.py",
            "-k",
            "uninterrupted or same_order or losses_continue or bit_equal",
        ),
        "mid-epoch order",
    ),
    Drill("every config cut and resumed in new processes", tests("tests/cli/test_verify_resume.py", "-m", "slow")),
    Drill(
        "a loss that goes NaN under BF16", tests("tests/cli/test_faults_in_data.py", "-k", "nan"), "NaN loss in BF16"
    ),
    Drill("a disk full at the end, full for a while; a folder closed or gone", tests("tests/cli/test_disks.py")),
    Drill(
        "two processes, killed loaders, signals at any stage, closed streams",
        tests("tests/cli/test_processes.py", "tests/cli/test_resume.py", "-k", "not damaged"),
    ),
    Drill("memory runs out: planted, under a real limit, in mid-run", tests("tests/cli/test_memory.py")),
    Drill("a loader that hangs, files that vanish, bad inputs and losses", tests("tests/cli/test_faults_in_data.py")),
    Drill(
        "configs, overrides, arguments, checkpoints and records at random: 1,000 inputs (`make fuzz`: 20,000)",
        tests("tests/fuzz/test_fuzz.py"),
    ),
)


def main() -> int:
    """Run the drills and write the table; return 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", type=int, nargs="*", help="numbers of drills to run, from 0; writes no table")
    asked = parser.parse_args()
    heed_signals()
    rows, failed, began = [], 0, time.monotonic()
    for number, drill in enumerate(DRILLS):
        if asked.only is not None and number not in asked.only:
            continue
        with tempfile.TemporaryDirectory() as folder:
            start = time.monotonic()
            try:
                tries, lost = drill.run(Path(folder)), "nothing"
            except (AssertionError, OSError, subprocess.SubprocessError) as error:
                traceback.print_exc()
                tries, lost, failed = 0, f"FAILED: {str(error).splitlines()[0] if str(error) else error!r}", failed + 1
        print(f"{drill.fault}: tried {tries}, lost: {lost} ({time.monotonic() - start:.0f} s)", flush=True)
        rows.append((drill, tries, lost))
    if asked.only is None:
        write_table(rows, time.monotonic() - began)
    return 1 if failed else 0


def write_table(rows: Sequence[tuple[Drill, int, str]], seconds: float) -> None:
    """Put the table in its place in docs/reliability.md."""
    record = json.loads(PEERS.read_bytes())
    peers = [peer for peer in record["versions"] if peer != "mptrain"]
    head = ["fault", "tried", "lost", *(f"{peer} {record['versions'][peer][peer]}" for peer in peers)]
    lines = [_line(head), _line(["---"] * len(head))]
    for drill, tries, lost in rows:
        theirs = [_outcome(record, peer, drill.same_as) for peer in peers]
        lines.append(_line([drill.fault, str(tries), lost, *theirs]))
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    table = "\n".join([*lines, "", f"{sum(tries for _, tries, _ in rows):,} tries in {seconds / 60:.0f} minutes."])
    PAGE.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{rest.partition(END)[2]}")


def _outcome(record: dict, peer: str, fault: str | None) -> str:
    cells = [cell for cell in record["cells"] if (cell["peer"], cell["fault"]) == (peer, fault)]
    return "<br>".join((f"*{c['option']}*: " if c["option"] else "") + c["outcome"] for c in cells)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
