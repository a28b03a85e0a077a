"""Resuming from the command line: what may have changed, what is damaged, who else is at work, how it ended before."""

import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mptrain.cli.app import run as mptrain
from mptrain.trainer import run_lock
from mptrain.trainer.run_lock import hold, is_held, run_status
from tests.cli.small_run import as_another_user, result_of, strict

RUN = Path("runs/small/a")
CHECKPOINTS = RUN / "checkpoints"


def start(*changes: str) -> int:
    return mptrain(["run", "small.yaml", "--run-id", "a", "--quiet", "checkpoint.every=6", *changes])


def resume(*arguments: str) -> int:
    return start("--resume", "auto", "train.epochs=3", *arguments)


def events() -> list[dict]:
    return [strict(line) for line in (RUN / "events.jsonl").read_text().splitlines()]


def said(kind: str) -> list[str]:
    return [event["message"] for event in events() if event["kind"] == kind]


def newest() -> Path:
    return max(CHECKPOINTS.glob("step-*"))


def truncated(folder: Path) -> None:
    content = (folder / "model.pt").read_bytes()
    (folder / "model.pt").write_bytes(content[: len(content) // 2])


def flipped(folder: Path) -> None:
    content = bytearray((folder / "optimizer.pt").read_bytes())
    content[len(content) // 2] ^= 4
    (folder / "optimizer.pt").write_bytes(content)


def emptied(folder: Path) -> None:
    (folder / "trainer.pt").write_bytes(b"")


def without_a_part(folder: Path) -> None:
    (folder / "scaler.pt").unlink()


def without_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def of_a_newer_version(folder: Path) -> None:
    rewrite_manifest(folder, lambda manifest: manifest | {"schema": 2})


def half_a_manifest(folder: Path) -> None:
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text[: len(text) // 2])


def of_another_model(folder: Path) -> None:
    replace_part(folder, "model", {"layers.0.weight": torch.zeros(3, 5)})


def foreign(folder: Path) -> None:
    replace_part(folder, "trainer", {"epoch": 3, "global_step": 12, "state_dict": {}})


def a_bomb(folder: Path) -> None:
    class Bomb:
        def __reduce__(self):
            return (os.system, (f"touch {Path('exploded').absolute()}",))

    replace_part(folder, "trainer", {"position": Bomb()})


def with_short_moments(folder: Path) -> None:
    """What makes torch's fused kernels write beyond the moments."""
    state = torch.load(folder / "optimizer.pt", weights_only=True)
    for entries in state["state"].values():
        entries["exp_avg"] = torch.zeros(3)
    replace_part(folder, "optimizer", state)


def with_random_numbers_from_nowhere(folder: Path) -> None:
    """What makes NumPy read far beyond its generator's state."""
    state = torch.load(folder / "trainer.pt", weights_only=True)
    state["random"]["numpy"][2] = 2**31 - 1
    replace_part(folder, "trainer", state)


def with_a_tensor_for_a_count(folder: Path) -> None:
    state = torch.load(folder / "trainer.pt", weights_only=True)
    state["ledger"]["counts"]["skipped"] = torch.tensor(2)
    replace_part(folder, "trainer", state)


def with_a_list_for_an_epoch(folder: Path) -> None:
    state = torch.load(folder / "trainer.pt", weights_only=True)
    state["position"][0] = [1]
    replace_part(folder, "trainer", state)


def rewrite_manifest(folder: Path, change) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def replace_part(folder: Path, part: str, state) -> None:
    """Put another part in place, and make the manifest agree with it."""
    file = folder / f"{part}.pt"
    torch.save(state, file)
    record = {"bytes": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    rewrite_manifest(folder, lambda manifest: manifest | {"files": {**manifest["files"], file.name: record}})


DAMAGE = {
    truncated: "model.pt: damaged (has",
    flipped: "optimizer.pt: damaged (its checksum differs)",
    emptied: "trainer.pt: damaged (is empty)",
    without_a_part: "scaler.pt: damaged (it is missing)",
    without_manifest: "not a complete checkpoint (no manifest.json)",
    half_a_manifest: "manifest.json: damaged (",
    of_a_newer_version: "checkpoint schema 2, this mptrain reads 1; use the version that wrote it",
    of_another_model: "it is of another model",
    foreign: "its content is not that of a run like this one (TypeError: trainer.state_dict holds a dict, which no run",
    with_short_moments: "optimizer: exp_avg of a parameter is float32 of shape (3,) instead of floats of shape (",
    with_random_numbers_from_nowhere: "NumPy's random state has position 2147483647",
    with_a_tensor_for_a_count: "trainer.ledger.counts.skipped holds a Tensor, which no run saves there",
    with_a_list_for_an_epoch: "trainer.position holds a list, which no run saves there",
    a_bomb: "trainer.pt: cannot be read: it holds more than tensors and plain values, and loading never runs code",
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_a_damaged_checkpoint_has_its_reason_and_auto_takes_the_one_before(here, capsys, damage):
    assert start() == 0
    bad = newest()
    damage(bad)
    assert mptrain(["run", "small.yaml", "--resume", str(bad), "--quiet"]) == 6
    err = capsys.readouterr().err
    assert DAMAGE[damage] in err
    assert err.count("\n") == 1
    assert resume() == 0
    assert result_of("a")["applied_steps"] == 36
    [skipped] = said("warning")[1:] if len(said("warning")) > 1 else said("warning")
    assert skipped.startswith(f"skipped a checkpoint: {bad}")
    assert DAMAGE[damage] in skipped
    assert "resumed after 18 applied steps" in said("resume")
    assert not Path("exploded").exists()


def test_a_link_to_nowhere_in_a_checkpoint_s_place_is_skipped(here):
    assert start() == 0
    link = CHECKPOINTS / "step-99999999"
    link.symlink_to("nowhere")
    assert resume() == 0
    assert said("warning")[-1].startswith(f"skipped a checkpoint: {link}: ")


def test_a_run_folder_named_by_hand_is_never_resumed_from_an_older_checkpoint_unasked(here, capsys):
    assert start() == 0
    truncated(newest())
    assert mptrain(["run", "small.yaml", "--resume", str(RUN), "--quiet"]) == 6
    assert "model.pt: damaged (has" in capsys.readouterr().err


def test_nothing_but_damaged_checkpoints_is_an_error_and_not_a_new_start(here, capsys):
    assert start() == 0
    for folder in CHECKPOINTS.iterdir():
        emptied(folder)
    assert resume() == 6
    err = capsys.readouterr().err
    assert "holds no checkpoint that can be used" in err
    assert err.count("damaged (is empty)") == 2
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", ["foreign.ckpt", "folder", "checkpoints/step-00000001"])
def test_what_is_no_checkpoint_of_ours(here, capsys, name):
    path = Path(name)
    path.parent.mkdir(exist_ok=True)
    if path.suffix:
        torch.save({"state_dict": {}, "pytorch-lightning_version": "2.5"}, path)
    else:
        path.mkdir()
    assert mptrain(["run", "small.yaml", "--resume", name]) == 6
    assert capsys.readouterr().err.count("\n") == 1


def test_what_may_change_is_told(here):
    assert start() == 0
    before = strict((RUN / "run.json").read_text())
    assert resume("precision=bf16", "log.every=7", "data.num_workers=1", "data.cache=none", "checkpoint.every=5") == 0
    about = strict((RUN / "run.json").read_text())
    assert (before["first_step"], before["total_steps"]) == (0, 24)
    assert (about["first_step"], about["total_steps"], about["precision"][:4]) == (24, 36, "bf16")
    told = {event["data"]["key"]: event["message"] for event in events() if event["kind"] == "changed"}
    assert told["train.epochs"] == "train.epochs changed 2 -> 3"
    assert told["precision.mode"] == "precision.mode changed 'auto' -> 'bf16'"
    assert told["log.every"] == "log.every changed 5 -> 7"
    assert told["checkpoint.every"] == "checkpoint.every changed 6 -> 5"
    assert told["data.num_workers"] == "data.num_workers changed 0 -> 1"
    assert "resumed with train.epochs changed 2 -> 3" in said("warning")


def test_what_may_not_change_is_listed_and_allowed_one_by_one(here, capsys):
    assert start("ema=0.9") == 0
    wide = ["model.hidden=[24]", "optimizer.name=sgd", "data.batch_size=16", "seed=3", "ema=null", "train.epochs=9"]
    assert start("--resume", "auto", *wide) == 2
    lines = capsys.readouterr().err.splitlines()
    keys = [line.removeprefix("error: ").partition(":")[0] for line in lines]
    assert {"seed", "model.hidden", "data.batch_size", "optimizer.name"} <= set(keys)
    assert any(key.startswith("ema") for key in keys)
    assert all(f"--allow-change {key}=REASON" in line for key, line in zip(keys, lines, strict=True))
    allowed = [f"--allow-change={key}=because" for key in ("model", "optimizer", "data", "seed", "ema")]
    assert start("--resume", "auto", *wide, *allowed[:-1]) == 2
    assert capsys.readouterr().err.startswith("error: ema")
    assert start("--resume", "auto", *wide, *allowed) == 0
    assert "the optimizer's state begins anew" in said("begins_anew")
    assert any("begin anew" in text and "weight" in text for text in said("begins_anew"))
    told = {event["data"]["key"]: event["data"]["reason"] for event in events() if event["kind"] == "changed"}
    assert told["seed"] == told["model.hidden"] == "because"
    assert result_of("a")["applied_steps"] == 54


def test_an_average_that_is_new_begins_at_the_weights(here):
    assert start() == 0
    assert resume("ema=0.9", "--allow-change", "ema=smoother") == 0
    assert "what is new in the average begins at the weights" in said("begins_anew")


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("seed", "'seed' must be KEY=REASON"),
        ("seed=", "'seed=' must be KEY=REASON"),
        ("seed=why", "'seed' has not changed; leave it out"),
        ("sed=why", "'sed' has not changed; leave it out"),
    ],
)
def test_a_change_that_is_none(here, capsys, option, reason):
    assert start() == 0
    assert resume("--allow-change", option) == 2
    assert reason in capsys.readouterr().err


def test_a_change_is_allowed_only_where_something_is_resumed(here, capsys):
    assert start("--allow-change", "seed=why") == 2
    assert "nothing to change without --resume" in capsys.readouterr().err


def test_data_that_became_others(here, capsys):
    table = Path("t.csv")
    rows = "".join(f"{n},{n % 7},{n % 2}\n" for n in range(60))
    table.write_text("a,b,y\n" + rows)
    data = [
        "data={name: csv, path: t.csv, target: y, kind: classification, batch_size: 8}",
        "model={name: mlp, hidden: [8]}",
    ]
    assert start(*data) == 0
    table.write_text("a,b,y\n" + rows.replace("59,3,1", "59,3,0"))
    assert resume(*data) == 2
    err = capsys.readouterr().err
    assert "error: data: they are not those that this run began with: sha256 was" in err
    assert resume(*data, "--allow-change", "data=one label was wrong") == 0
    assert any("allowed: one label was wrong" in text for text in said("changed"))


def test_a_second_process_is_refused_and_the_lock_goes_with_its_holder(here, capsys):
    script = (
        "import sys, time; from pathlib import Path; from mptrain.trainer.run_lock import hold\n"
        "with hold(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(RUN)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        assert run_status(RUN) == "running"
        assert start() == 2
        err = capsys.readouterr().err
        assert f"runs/small/a is in use by process {holder.pid} on " in err
        assert err.count("\n") == 1
        holder.send_signal(signal.SIGKILL)
    assert (RUN / ".lock").exists()  # stale, and nobody's
    assert start() == 0
    assert not (RUN / ".lock").exists()


def test_who_may_only_read_a_folder_can_ask_whether_it_is_in_use(tmp_path):
    def ask() -> int:
        return as_another_user(tmp_path / "run", lambda: int(is_held(Path())))

    with hold(tmp_path / "run"):
        (tmp_path / "run" / ".lock").chmod(0o444)
        assert ask() == 1
    (tmp_path / "run" / ".lock").touch(0o444)  # as a kill leaves it
    assert ask() == 0


def test_who_asks_at_that_moment_keeps_nobody_from_starting(tmp_path, monkeypatch):
    (tmp_path / ".lock").touch()
    asker = os.open(tmp_path / ".lock", os.O_RDONLY)
    fcntl.flock(asker, fcntl.LOCK_SH)
    assert not is_held(tmp_path)
    monkeypatch.setattr(run_lock.time, "sleep", lambda seconds: fcntl.flock(asker, fcntl.LOCK_UN))
    with hold(tmp_path):
        assert is_held(tmp_path)
    os.close(asker)


def test_the_lock_of_a_folder_that_vanished(tmp_path):
    with hold(tmp_path / "run"):
        shutil.rmtree(tmp_path / "run")
    with hold(tmp_path / "run"):
        pass


def test_a_killed_run_is_called_so(here):
    script = (
        "import sys, os, signal; from mptrain.trainer import trainer; from mptrain.cli.app import run\n"
        "real = trainer.Trainer._after_attempt\n"
        "def dying(self):\n"
        "    done = real(self)\n"
        "    if self._launched == 15: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return done\n"
        "trainer.Trainer._after_attempt = dying\n"
        "run(sys.argv[1:])"
    )
    assert start() == 0  # leaves a result, which the next process takes away before it trains
    shutil.rmtree(RUN)
    arguments = ["run", "small.yaml", "--run-id", "a", "--quiet", "checkpoint.every=6"]
    done = subprocess.run([sys.executable, "-c", script, *arguments], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (RUN / "result.json").exists()
    assert run_status(RUN) == "killed"
    assert resume() == 0
    assert said("killed") == ["the process before this one was killed: it left no result"]
    assert run_status(RUN) == "ok"


def test_a_folder_in_the_place_of_the_result_is_one_line(here, capsys):
    assert start() == 0
    (RUN / "result.json").unlink()
    (RUN / "result.json").mkdir()
    capsys.readouterr()
    assert resume() == 6
    *_, error = capsys.readouterr().err.splitlines()
    assert error == f"error: {RUN}/result.json: cannot be removed (Is a directory); move it away to resume this run"


def test_a_time_budget_ends_well_and_is_gone_on_from(here):
    assert start("train.epochs=1000000", "train.max_time=0.5s", "checkpoint.every=null") == 0
    first = result_of("a")
    assert (first["status"], first["ended_by"], first["metrics"]) == ("ok", "max_time", {})
    assert 0 < first["applied_steps"] < 12_000_000
    assert "train.max_time is over after" in said("max_time")[0]
    assert start("--resume", "auto", f"--max-steps={first['applied_steps'] + 5}", "train.epochs=1000000") == 0
    assert result_of("a")["applied_steps"] == first["applied_steps"] + 5
    assert result_of("a")["ended_by"] == "stop_at_step"


@pytest.mark.parametrize("value", ["30", "1h30m", "0.5h", "90s", "2d"])
def test_durations(here, value):
    assert mptrain(["check", "small.yaml", f"train.max_time={value}"]) == 0


@pytest.mark.parametrize("value", ["", "30x", "h", "-1", "0", "1m1h", "soon"])
def test_what_is_no_duration(here, capsys, value):
    assert mptrain(["check", "small.yaml", f"train.max_time='{value}'"]) == 2
    assert "train.max_time" in capsys.readouterr().err
