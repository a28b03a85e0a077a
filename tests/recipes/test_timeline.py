"""A run's timeline: its rows from crafted samples, and from those of a real run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mptrain.cli.app import run
from recipes.timeline import Sample, main, timeline
from tests.report.folders import event, lines


def sample(step: int, grad_norm: float | None = 1.0, scale: float = 8.0, underflow: float | None = None) -> Sample:
    return Sample(step, scale, grad_norm, underflow, below_normal_share=0.25, zero_share=0.5)


def test_each_row_is_the_mean_of_its_samples_the_last_scale_and_the_skips() -> None:
    samples = [sample(10, 4.0, underflow=0.5), sample(20, 2.0, 1024.0, 0.0), sample(30), sample(40, None)]
    assert timeline(samples, [15, 21, 22], 3).splitlines()[2:] == [
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


@pytest.mark.parametrize(
    ("records", "says", "code"),
    [
        (None, "is no run's folder: it has no config.yaml", 2),
        ([event("overflow", 3)], "log.numerics_every above 0", 2),
        ([event("numerics", 3, {"loss_scale": "big"})], "events.jsonl: ", 6),
    ],
)
def test_what_has_no_timeline_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], records: list[dict[str, Any]] | None, says: str, code: int
) -> None:
    if records is not None:
        (tmp_path / "config.yaml").write_text("seed: 0\n")
        (tmp_path / "events.jsonl").write_text(lines(records))
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path)])
    assert ended.value.code == code
    assert says in capsys.readouterr().err
