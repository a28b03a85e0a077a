"""The five faults: what is done to a contestant, and in which words its outcome is put.

Owns: the jobs of each fault and their judgement. Must not: know how a contestant trains; it sees its events, its exit
code, what it printed, and the names of its checkpoints.
"""

from __future__ import annotations

import random
import re
import shutil
import signal
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.faults.job import BATCH_SIZE, STEPS_PER_EPOCH, Job
from benchmarks.faults.processes import Contestant, Ending

CHECKPOINTS = {
    "lightning": "checkpoints/last.ckpt",
    "accelerate": "checkpoints/checkpoint_*",
    "torchtune": "out/epoch_*",
    "mptrain": "runs/*/*/checkpoints/step-*",
}
"""What each takes to resume from the latest: the one with the largest number."""
BALLAST = 6_000_000
"""Idle FP32 parameters; with AdamW's two moments 72 MB a checkpoint."""
FOREVER = 10**6


@dataclass(frozen=True)
class Trial:
    """One contestant with one of its own options, in an empty folder."""

    contestant: Contestant
    option: str
    folder: Path
    kills: int

    def job(self, **what: Any) -> Job:
        """Return a job of this trial."""
        return Job(folder=str(self.folder), option=self.option, **what)

    def run(self, job: Job, kill: random.Random | None = None) -> Ending:
        """Run it."""
        return self.contestant.run(job, kill=kill)

    def clear(self) -> None:
        """Empty the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)


def kill_during_save(trial: Trial) -> dict[str, Any]:
    """Kill at random moments of saves; each time resume from the latest, in the process that is to be killed next."""
    moments = random.Random(0)
    fresh = trial.job(steps=FOREVER, save_every=1, ballast=BALLAST)
    tried, expected = 0, None
    failures: list[str] = []
    mixed, lost, saves_s = 0, 0, []
    job = fresh
    for _ in range(3 * trial.kills):
        enough = tried == trial.kills
        ending = trial.run(replace(job, die_at=2) if enough else job, None if enough else moments)
        resumed_at = ending.resumed_at
        if ending.code != -signal.SIGKILL and (resumed_at is not None or not job.resume):
            raise RuntimeError(f"it stops by itself with exit code {ending.code}: {ending.last_words}")
        if resumed_at is None:
            failures.append(ending.last_words)
            trial.clear()
            job = fresh
        else:
            if job.resume:
                mixed += bool(ending.told("mixed"))
                lost += expected is not None and resumed_at < expected
            job = replace(fresh, resume=True)
            saves_s += ending.saves_s
            tried += ending.killed_in_save and not enough
            expected = resumed_at + len(ending.told("stepped")) - ending.killed_in_save
        if enough:
            break
    words = [f"{len(failures)} of {tried} resumes fail"]
    if mixed:
        words.append(f"{mixed} go on with weights and moments of different epochs, without a word")
    if lost:
        words.append(f"{lost} lose a save that was complete")
    seen = {"kills": tried, "failed": len(failures), "mixed": mixed, "lost_complete_saves": lost}
    seen |= {"errors": Counter(failures), "median_save_s": round(sorted(saves_s)[len(saves_s) // 2], 3)}
    return {"outcome": "; ".join(words), "seen": seen}


def truncated_newest(trial: Trial) -> dict[str, Any]:
    """Cut the largest file of the newest of three checkpoints to half, then resume from the latest."""
    job = trial.job(steps=FOREVER, save_every=1, ballast=BALLAST // 60)  # weights and moments are the largest files
    trial.run(replace(job, die_at=4))
    newest = max(trial.folder.glob(CHECKPOINTS[trial.contestant.name]), key=_number)
    victim = max(
        (path for path in [newest, *newest.rglob("*")] if path.is_file()), key=lambda path: path.stat().st_size
    )
    with victim.open("r+b") as file:
        file.truncate(victim.stat().st_size // 2)
    left = sorted(str(path.relative_to(trial.folder)) for path in newest.parent.iterdir())
    ending = trial.run(replace(job, resume=True, die_at=2))
    seen = {"cut": str(victim.relative_to(trial.folder)), "there": left, "resumed_at": ending.resumed_at}
    if ending.resumed_at is None:
        return {
            "outcome": f"no fall-back: exit {ending.code}, {ending.last_words}",
            "seen": seen | {"exit_code": ending.code},
        }
    said = [line for line in ending.lines if re.search(r"damaged|corrupt|truncated|incomplete", line)]
    words = f"falls back to step {ending.resumed_at} of 3" if ending.resumed_at else "starts afresh"
    return {"outcome": f"{words}, {'and says so' if said else 'without a word'}", "seen": seen | {"said": said[:2]}}


def scaler_state(trial: Trial) -> dict[str, Any]:
    """Resume an FP16 run between two growths of the scale; compare its last scale with an uninterrupted run's."""
    whole = trial.job(steps=11, save_every=7, precision="fp16")
    reference = trial.run(whole)
    if not reference.told("end"):
        return {"outcome": f"FP16 refused: {reference.last_words}", "seen": {"exit_code": reference.code}}
    ended = reference.told("end")[0]
    if ended["scale"] is None:
        said = [line for line in reference.lines if "not supported" in line]
        words = (
            f"no scaler: asked for FP16, it computes in {ended['dtype']}, {'and says so' if said else 'without a word'}"
        )
        return {"outcome": words, "seen": {"reference": ended, "said": said}}
    trial.clear()
    trial.run(replace(whole, die_at=8))
    ending = trial.run(replace(whole, resume=True))
    scales = {"uninterrupted": ended["scale"], "resumed": ending.told("end")[0]["scale"], "at": ending.resumed_at}
    lost = {2048.0: "growth counter lost", 1024.0: "scale and growth counter lost"}
    kept = scales["resumed"] == scales["uninterrupted"]
    return {
        "outcome": "scale and growth counter kept" if kept else lost.get(scales["resumed"], "differs"),
        "seen": scales,
    }


def epoch_order(trial: Trial) -> dict[str, Any]:
    """Kill in the middle of the second of three epochs, resume; compare the sample ids with an uninterrupted run's."""
    whole = trial.job(steps=3 * STEPS_PER_EPOCH, save_every=5)
    reference = trial.run(whole).ids
    trial.clear()
    cut = trial.run(replace(whole, die_at=18)).ids
    if cut != reference[: len(cut)]:
        raise RuntimeError(f"{trial.contestant.name}: two runs with one seed differ in their order")
    ending = trial.run(replace(whole, resume=True))
    if ending.resumed_at is None:
        raise RuntimeError(f"{trial.contestant.name} does not resume: {ending.last_words}")
    # What the weights have seen: the uninterrupted run's samples up to the checkpoint, then the resumed run's.
    ids = reference[: ending.resumed_at * BATCH_SIZE] + ending.ids
    epoch = slice(STEPS_PER_EPOCH * BATCH_SIZE, 2 * STEPS_PER_EPOCH * BATCH_SIZE)
    seen_once = len(set(ids[epoch]))
    repeated = len(ids[epoch]) - seen_once
    seen = {"resumed_at": ending.resumed_at, "repeated": repeated, "missed": len(set(reference[epoch])) - seen_once}
    seen |= {"same_epoch": ids[epoch] == reference[epoch], "same_after": ids[epoch.stop :] == reference[epoch.stop :]}
    redone = 17 - ending.resumed_at
    if not seen["same_epoch"]:
        words = (
            f"{repeated} of 96 samples repeated, {seen['missed']} missed" if repeated else "none lost, another order"
        )
    else:
        words = "goes on exactly" if seen["same_after"] else "this epoch exactly, the next ones in another order"
    if redone > 2:
        words += f", from the epoch's beginning: {redone} steps done again, for it saves between epochs only"
    return {"outcome": words, "seen": seen}


def nan_loss(trial: Trial) -> dict[str, Any]:
    """Make one loss of a BF16 run NaN, then all from one step on; resume from the latest each time."""
    found = {}
    for name, nan_steps in (("one", 1), ("lasting", FOREVER)):
        trial.clear()
        job = trial.job(steps=2 * STEPS_PER_EPOCH, save_every=4, precision="bf16")
        ending = trial.run(replace(job, nan_at=6, nan_steps=nan_steps))
        resumed = trial.run(replace(job, steps=3 * STEPS_PER_EPOCH, resume=True, die_at=2))
        last = (ending.told("end") or ending.told("step"))[-1]
        first = resumed.told("step")
        found[name] = {
            "exit_code": ending.code,
            "weights_finite": last["finite"],
            "checkpoint_finite": first[0]["finite"] if first else f"none to resume from: {resumed.last_words}",
            "steps_begun": len(ending.told("step")),
            "said": _words_on_nan(ending),
        }
    one, lasting = (_nan_words(found[name]) for name in ("one", "lasting"))
    return {"outcome": one if one == lasting else f"one NaN: {one}; lasting: {lasting}", "seen": found}


def _nan_words(seen: dict[str, Any]) -> str:
    finite = {True: "finite", False: "NaN"}
    noticed = "said so" if seen["said"] else "not a word"
    noticed += f", stops in step {seen['steps_begun']}" if seen["steps_begun"] < 2 * STEPS_PER_EPOCH else ""
    saved = finite.get(seen["checkpoint_finite"], "none")
    return f"weights {finite[seen['weights_finite']]}, checkpoint {saved}, exit {seen['exit_code']}, {noticed}"


def _words_on_nan(ending: Ending) -> str | None:
    """Return the first line about it that is no progress bar: who is not watching would never see that."""
    about = re.compile(r"\bnan\b|non-?finite|not finite|infinite", re.IGNORECASE)
    return next((line[:200] for line in ending.lines if about.search(line) and "it/s" not in line), None)


def _number(path: Path) -> int:
    return int((re.findall(r"\d+", path.name) or [0])[-1])


FAULTS = {
    "kill during save": kill_during_save,
    "truncated newest": truncated_newest,
    "scaler state": scaler_state,
    "mid-epoch order": epoch_order,
    "NaN loss in BF16": nan_loss,
}
OTHER_TMPDIR = "TMPDIR on another file system"
"""Lightning writes a checkpoint to TMPDIR, then moves it: from another file system, as is common, that is a copy."""
OPTIONS: dict[tuple[str, str], tuple[str, ...]] = {
    ("lightning", "kill during save"): (OTHER_TMPDIR,),
    ("lightning", "scaler state"): ("CPU scaler by hand",),
    ("lightning", "mid-epoch order"): ("StatefulDataLoader",),
    ("lightning", "NaN loss in BF16"): ("EarlyStopping(check_finite)", "detect_anomaly"),
    ("accelerate", "scaler state"): ("CPU scaler by hand",),
    ("accelerate", "mid-epoch order"): (
        "use_seedable_sampler, set_epoch by hand",
        "use_stateful_dataloader",
        "use_stateful_dataloader on torchdata's StatefulDataLoader",
    ),
}
"""What is tried beside the defaults: each library's own switches that might pass the fault."""
