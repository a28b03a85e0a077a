"""What mptrain and its peers do on five faults: `python -m benchmarks.faults --venv PATH --out FILE.json`.

Lightning, Accelerate and torchtune run in the virtual environment at PATH (benchmarks/requirements-peers.txt says how
to make it), mptrain in the Python that runs this. Each trains a tiny model by its own documented means of saving and
resuming, every time in a process of its own; a witness inside model and optimizer tells what happens (problem.py), and
an outcome is judged by that, by the exit code and by what is on disk (judge.py):

1. SIGKILL at a random moment between an optimizer step's end and the next step's beginning, with a save (72 MB) in
   between; then "resume from latest", in the process that is the next to be killed. 20 kills each.
2. The largest file of the newest checkpoint cut to half; then "resume from latest".
3. FP16 with a dynamic scale, cut between two growths: do the scale and its growth counter go on in a new process?
4. Killed in mid-epoch with shuffled data: are the sample ids after resuming those of an uninterrupted run?
5. A NaN loss in BF16, one or lasting: what becomes of the weights and the newest checkpoint, and is anything said?

Where a library offers a switch that might pass a fault, both the default and the switch are tried. About 8 minutes of
CPU time. `--table FILE.json` prints the table of an earlier run.

Owns: which trials run, and the table. Must not: import torch or a contestant.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.faults.judge import CHECKPOINTS, FAULTS, OPTIONS, OTHER_TMPDIR, Trial
from benchmarks.faults.processes import ROOT, Contestant

SHARED_MEMORY = Path("/dev/shm")


def main() -> None:
    """Run all trials, two at a time, write their record and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--venv", type=Path, help="virtual environment of the peers")
    parser.add_argument("--out", type=Path, help="write the record here")
    parser.add_argument("--table", type=Path, help="only print the table of this record")
    parser.add_argument("--peers", default=",".join(CHECKPOINTS), help="comma-separated")
    parser.add_argument("--faults", default=",".join(FAULTS), help="comma-separated")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2, help="trials at a time")
    asked = parser.parse_args()
    if asked.table is not None:
        print(table(json.loads(asked.table.read_bytes())))
        return
    if asked.venv is None or asked.out is None:
        parser.error("--venv and --out are needed, or --table")
    record = run_all(asked)
    asked.out.write_text(json.dumps(record, indent=1) + "\n")
    print(table(record))


def run_all(asked: argparse.Namespace) -> dict[str, Any]:
    """Return the record of every asked trial."""
    with tempfile.TemporaryDirectory() as work, ThreadPoolExecutor(asked.workers) as pool:
        pending = []
        for fault in asked.faults.split(","):
            for peer in asked.peers.split(","):
                for option in ("", *OPTIONS.get((peer, fault), ())):
                    folder = Path(work) / str(len(pending))
                    pending.append(pool.submit(run_trial, peer, fault, option, folder, asked))
        cells = [each.result() for each in pending]
    return {
        "kills": asked.kills,
        "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "versions": {peer: versions(peer, asked.venv) for peer in asked.peers.split(",")},
        "cells": cells,
    }


def run_trial(peer: str, fault: str, option: str, folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Return one cell of the table; a trial that breaks says why in its place, and the others go on."""
    folder.mkdir()
    elsewhere = option == OTHER_TMPDIR
    if elsewhere and (not SHARED_MEMORY.is_dir() or SHARED_MEMORY.stat().st_dev == folder.stat().st_dev):
        found = {"outcome": f"not tried: {SHARED_MEMORY} is no file system of its own here", "seen": {}}
    else:
        try:
            with (
                tempfile.TemporaryDirectory(dir=SHARED_MEMORY if elsewhere else folder.parent) as temporary,
                Contestant(peer, python_of(peer, asked.venv), {"TMPDIR": temporary}) as contestant,
            ):  # what a killed process leaves in TMPDIR (Lightning: the checkpoint that it was writing) goes with it
                found = FAULTS[fault](Trial(contestant, option, folder, asked.kills))
        except Exception as error:
            found = {"outcome": f"not measured: {type(error).__name__}: {error}", "seen": {}}
    shutil.rmtree(folder)
    print(f"{peer:<11} {fault:<17} {option:<30} {found['outcome']}", file=sys.stderr, flush=True)
    return {"peer": peer, "fault": fault, "option": option, **found}


def python_of(peer: str, venv: Path) -> str:
    """Return the Python that has this contestant."""
    return sys.executable if peer == "mptrain" else str(venv.absolute() / "bin" / "python")


def versions(peer: str, venv: Path) -> dict[str, str]:
    """Return the versions of a contestant and of what it saves with."""
    code = (
        "import json, importlib.metadata as m; from benchmarks.faults.worker import PACKAGES as p; "
        f"print(json.dumps({{n: m.version(n) for n in ('torch', *p[{peer!r}])}}))"
    )
    done = subprocess.run([python_of(peer, venv), "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def table(record: dict[str, Any]) -> str:
    """Return the record as a markdown table: a row for each fault, a column for each contestant."""
    peers = list(record["versions"])
    head = [f"{peer} {record['versions'][peer][peer]}" for peer in peers]
    lines = [f"| fault | {' | '.join(head)} |", "|---" * (len(peers) + 1) + "|"]
    for fault in dict.fromkeys(cell["fault"] for cell in record["cells"]):
        row = []
        for peer in peers:
            cells = [cell for cell in record["cells"] if (cell["peer"], cell["fault"]) == (peer, fault)]
            texts = [f"*{cell['option']}*: {cell['outcome']}" if cell["option"] else cell["outcome"] for cell in cells]
            row.append("<br>".join(text.replace("|", "\\|") for text in texts))
        lines.append(f"| {fault} | {' | '.join(row)} |")
    others = {peer: {n: v for n, v in found.items() if n != peer} for peer, found in record["versions"].items()}
    lines.append("")
    lines += [
        f"- {peer}: " + ", ".join(f"{name} {version}" for name, version in found.items())
        for peer, found in others.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
