"""Disks that are full, folders that vanish or take nothing: training goes on, and the end says what is missing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mptrain import checkpoint as checkpoints
from mptrain.checkpoint import CheckpointStore
from tests.cli.small_run import result_of, strict

ENV = {**os.environ, "OMP_NUM_THREADS": "1"}
RUN = Path("runs/small/a")
NO_MOUNTS = "needs a user namespace in which file systems can be mounted"


def can_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    done = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True)
    return done.returncode == 0


def in_small_disk(script: str, size: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script with ./runs on a disk of its own; what is there at the end is copied to ./kept."""
    whole = f"mkdir -p runs && mount -t tmpfs -o size={size} tmpfs runs && {{ {script}\n}}; cp -a runs kept"
    command = ["unshare", "-rm", "bash", "-c", whole]
    return subprocess.run(command, capture_output=True, text=True, env=ENV | {"PYTHON": sys.executable}, timeout=120)


TRAIN = '"$PYTHON" -m mptrain run small.yaml --run-id a'
WIDE = "model.hidden=[64,64] checkpoint.every=4 checkpoint.keep_last=1 log.every=1"  # a checkpoint takes about 90 KB


@pytest.mark.skipif(not can_mount(), reason=NO_MOUNTS)
def test_a_disk_that_is_full_at_the_end(here):
    """Room for one checkpoint and not for two: the first stands, every later save fails, training reaches its end."""
    done = in_small_disk(f"{TRAIN} {WIDE} --json; echo rc $?", "170k")
    assert done.stdout.splitlines()[-1] == "rc 4", done.stderr
    result = strict(done.stdout.splitlines()[0])
    assert (result["status"], result["exit_code"], result["applied_steps"]) == ("env_error", 4, 24)
    assert result["metrics"]["samples"] == 50
    assert "the last save failed: cannot save (" in result["error"]
    assert "the last checkpoint is step-00000004" in result["error"]
    assert "! save_failed at step 8: cannot save (" in done.stderr
    assert "training goes on, the last checkpoint is step-00000004" in done.stderr
    store = CheckpointStore(Path("kept/small/a/checkpoints"))
    assert [path.name for path in store.folder.iterdir()] == ["step-00000004"]
    assert checkpoints.load(store.latest().path).keys() >= {"model", "optimizer", "trainer"}


@pytest.mark.skipif(not can_mount(), reason=NO_MOUNTS)
def test_a_disk_that_is_full_for_a_while(here):
    """What fills the disk goes away: later saves succeed, all records are written, and the run ended well."""
    filler = "head -c 400k /dev/zero > runs/filler; (while [ ! -e full ]; do sleep 0.05; done; rm runs/filler) &"
    watch = f"{TRAIN} {WIDE} --json plugins=[watch]; echo rc $?"
    Path("watch.py").write_text(
        "import os, time\n"
        "from pathlib import Path\n"
        "from mptrain.trainer import saving\n"
        "real = saving.StoreSaver._write\n"
        "def write(self, state, point):\n"
        "    news = real(self, state, point)\n"
        "    if news.kind == 'save_failed':\n"
        "        Path('full').touch()\n"
        "        while os.path.exists('runs/filler'): time.sleep(0.02)\n"
        "    return news\n"
        "saving.StoreSaver._write = write\n"
    )
    done = in_small_disk(f"{filler} {watch}", "560k")
    assert done.stdout.splitlines()[-1] == "rc 0", done.stderr
    assert "! save_failed at step" in done.stderr
    kept = Path("kept/small/a")
    steps = [
        strict(line)["attempted_steps"] for line in (kept / "metrics.jsonl").read_text().splitlines() if "train" in line
    ]
    assert steps[:24] == list(range(1, 25))
    assert CheckpointStore(kept / "checkpoints").latest().step == 24


@pytest.mark.skipif(shutil.which("setpriv") is None and os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_becomes_read_only(here):
    Path("watch.py").write_text(
        "import os\n"
        "from mptrain.trainer import saving\n"
        "real = saving.StoreSaver._write\n"
        "def write(self, state, point):\n"
        "    news = real(self, state, point)\n"
        "    if point.step == 8: os.chmod(self._store.folder, 0o555)\n"
        "    return news\n"
        "saving.StoreSaver._write = write\n"
    )
    without_privilege = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    command = [*without_privilege, sys.executable, "-m", "mptrain", "run", "small.yaml", "--run-id", "a", "--json"]
    command += [*WIDE.split(), "plugins=[watch]"]
    done = subprocess.run(command, capture_output=True, text=True, env=ENV, timeout=120)
    assert done.returncode == 4, done.stderr
    result = strict(done.stdout)
    assert (result["status"], result["applied_steps"]) == ("env_error", 24)
    assert "the last save failed: cannot save (" in result["error"]
    assert "Permission denied" in result["error"]
    assert CheckpointStore(RUN / "checkpoints").latest().step == 8
    assert checkpoints.load(CheckpointStore(RUN / "checkpoints").latest().path)


@pytest.mark.parametrize("background", ["false", "true"])
def test_a_run_folder_that_vanishes(here, background):
    Path("vanish.py").write_text(
        "import shutil\n"
        "from mptrain.trainer import trainer\n"
        "real = trainer.Trainer._after_attempt\n"
        "def after(self):\n"
        "    if self._launched == 10: shutil.rmtree('runs')\n"
        "    return real(self)\n"
        "trainer.Trainer._after_attempt = after\n"
    )
    command = [sys.executable, "-m", "mptrain", "run", "small.yaml", "--run-id", "a", "--json", "plugins=[vanish]"]
    command += ["checkpoint.every=4", f"checkpoint.async={background}"]
    done = subprocess.run(command, capture_output=True, text=True, env=ENV, timeout=120)
    assert done.returncode == 4, done.stderr
    result = result_of("a")
    assert strict(done.stdout) == result
    assert result["error"] == "runs/small/a vanished while the run wrote to it: its earlier records are lost"
    assert (result["applied_steps"], result["metrics"]["samples"]) == (24, 50)
    assert "vanished; training goes on, in a folder made anew" in done.stderr
    made_anew = {p.name for p in RUN.iterdir()}
    assert {"config.yaml", "env.json", "plan.json", "run.json", "metrics.jsonl", "events.jsonl"} <= made_anew
    assert CheckpointStore(RUN / "checkpoints").latest().step == 24
    again = [*command[:5], "--run-id", "a", "--resume", "auto", "--quiet", "train.epochs=3"]
    assert subprocess.run(again, env=ENV, timeout=120, check=False).returncode == 0
