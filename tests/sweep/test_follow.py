"""Reading a run's folder while it is written."""

import json
import math
from pathlib import Path

from mptrain.sweep.follow import Follower

TRAIN = {"type": "train", "steps_done": 5, "loss": 1.5, "skipped_steps": 1, "samples_per_s": 10.0, "wall_s": 2.0}


def evaluation(value: float | None) -> dict:
    return {"type": "eval", "main_metric": "accuracy", "metrics": {"accuracy": value, "loss": 1.0}}


def lines(*records: dict) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def test_only_whole_lines_count(tmp_path):
    follower = Follower(tmp_path, 20)
    assert (follower.read().steps_done, follower.read().total_steps) == (None, 20)
    path = Path(tmp_path, "metrics.jsonl")
    text = lines(TRAIN, TRAIN | {"steps_done": 10})
    path.write_text(text[:-7])
    assert follower.read().steps_done == 5
    with path.open("a") as file:
        file.write(text[-7:] + lines(evaluation(0.5), evaluation(None)) + "no json\n")
    found = follower.read()
    assert (found.steps_done, found.metric, found.evaluations[0]) == (10, "accuracy", 0.5)
    assert math.isnan(found.evaluations[1])
    assert found.seconds_left() == 2.0


def test_a_run_that_goes_on_is_read_from_its_beginning(tmp_path):
    path = Path(tmp_path, "metrics.jsonl")
    path.write_text(lines(TRAIN, evaluation(0.5), TRAIN | {"steps_done": 10}, evaluation(0.6)))
    follower = Follower(tmp_path)
    assert follower.read().evaluations == [0.5, 0.6]
    Path(tmp_path, "run.json").write_text(json.dumps({"total_steps": 40, "first_step": 5}))
    other = Path(tmp_path, ".metrics.jsonl.tmp")  # a resumed run drops what came after its checkpoint, and goes on
    other.write_text(lines(TRAIN, evaluation(0.5), TRAIN | {"steps_done": 20, "wall_s": 1.5}))
    other.replace(path)
    found = follower.read()
    assert (found.evaluations, found.steps_done, found.total_steps, found.first_step) == ([0.5], 20, 40, 5)
    assert found.seconds_left() == 2.0  # 20 steps more, of which this process did 15 in 1.5 s
