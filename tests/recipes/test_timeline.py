"""A run's timeline: its rows from crafted events, and from those of a real run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mptrain.cli.app import run
from recipes.timeline import main, timeline


def sample(step: int, **figures: float | None) -> dict[str, Any]:
    data = {"attempted_step": step, "grad_norm": 1.0, "loss_scale": 8.0, "underflow_share": None, "zero_share": 0.5}
    return {"kind": "numerics", "attempted_step": step, "data": {**data, "below_normal_share": 0.25, **figures}}


def test_each_row_is_the_mean_of_its_samples_the_last_scale_and_the_skips() -> None:
    events = [
        sample(10, grad_norm=4.0, underflow_share=0.5),
        {"kind": "overflow", "attempted_step": 15},
        {"kind": "scale_change", "attempted_step": 15},
        sample(20, grad_norm=2.0, loss_scale=1024.0, underflow_share=0.0),
        {"kind": "nonfinite_loss", "attempted_step": 21},
        {"kind": "overflow", "attempted_step": 22},
        sample(40),
    ]
    assert timeline(events, 3).splitlines()[2:] == [
        "| 1-13 | 4 | 8 | 0 | 50 % | 25 % | 50 % |",
        "| 14-26 | 2 | 1024 | 3 | 0 % | 25 % | 50 % |",
        "| 27-40 | 1 | 8 | 0 | n/a | 25 % | 50 % |",
    ]


def test_a_real_run_has_a_timeline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "tiny.yaml"
    config.write_text(
        "{model: {name: mlp, hidden: [4]}, task: classification, optimizer: sgd, schedule: constant,\n"
        "data: {name: synthetic, input_shape: [3], num_outputs: 2, num_train: 64, num_test: 32, batch_size: 8},\n"
        "train: {max_steps: 6}, precision: fp16, log: {numerics_every: 2},\n"
        "debug: {plant: [{what: inf_grad, at: 5}]}}\n"
    )
    assert run(["run", str(config), "--output-dir", str(tmp_path), "--run-id", "a", "--quiet"]) == 0
    capsys.readouterr()
    main([str(tmp_path / "tiny" / "a"), "--rows", "2"])
    first, second = capsys.readouterr().out.splitlines()[2:]
    assert (first.split(" | ")[2:4], second.split(" | ")[2:4]) == (["65536", "0"], ["32768", "1"])


@pytest.mark.parametrize(("events", "says"), [(None, "is no run's folder"), ([], "log.numerics_every above 0")])
def test_what_has_no_timeline_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], events: list[object] | None, says: str
) -> None:
    if events is not None:
        (tmp_path / "events.jsonl").write_text("\n".join(json.dumps(event) for event in events))
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path)])
    assert ended.value.code == 2
    assert says in capsys.readouterr().err
