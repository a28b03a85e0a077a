"""The table of runs' numerics: figures of crafted folders, and of real runs as `mptrain sweep` leaves them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mptrain.cli.app import run
from recipes.table import main
from tests.report.folders import write_run

ROOT = Path(__file__).parents[2]
HEAD = [
    "| variant | accuracy | train loss | skipped steps | underflow | zero gradients | lost updates "
    "| held | peak memory | ended |",
    "|" + " --- |" * 10,
]
BASE = """
model: {name: mlp, hidden: [512]}
data: {name: synthetic, input_shape: [3], num_outputs: 2, num_train: 64, num_test: 32, batch_size: 8}
task: classification
optimizer: sgd
schedule: constant
train: {max_steps: 2}
log: {numerics_every: 1}
"""


def measured(underflow: float | None = None, zero: float = 0.5, *, held: int = 3 * 2**10) -> dict[str, Any]:
    numerics = {"samples": 4, "underflow_share": underflow, "zero_share": zero, "lost_update_share": None}
    return {"numerics": numerics, "held_bytes": {"planned": {"total": 1}, "measured": {"total": held}}}


def test_figures_are_means_and_sample_deviations_and_what_is_missing_says_so(tmp_path: Path, capsys: Any) -> None:
    versions = {"mptrain": "1", "torch": "2", "python": "3"}
    environment = f'{{"versions": {versions}, "platform": "x", "cpu": "y", "torch_threads": 1}}'.replace("'", '"')
    for mode, seed, accuracy, underflow, skipped in (
        ("fp32", 0, 0.5, None, 0),
        ("fp32", 1, 0.7, None, 0),
        ("fp16", 0, 0.5, 0.25, 1),
        ("fp16", 1, 0.7, 0.75, 2),
    ):
        folder = write_run(
            tmp_path / f"{mode}-{seed}", mode, seed, accuracy, skipped_steps=skipped, **measured(underflow)
        )
        (folder / "env.json").write_text(environment)
    gone = {"status": "env_error", "metrics": {}, "train_loss": None, "numerics": None, "held_bytes": None}
    write_run(tmp_path / "bf16-0", "bf16", 0, **gone)
    (tmp_path / "bf16-0" / "metrics.jsonl").write_text("")
    main([str(tmp_path)])
    assert capsys.readouterr().out.splitlines() == [
        "## small",
        "",
        *HEAD,
        "| fp32 | 0.6 ± 0.14 | 1 ± 0 | 0 | n/a | 50 % | n/a | 3 KiB | 1000 B | 2 ok |",
        "| bf16 | n/a | n/a | 0 | n/a | n/a | n/a | n/a | 1000 B | 1 env_error |",
        "| fp16 | 0.6 ± 0.14 | 1 ± 0 | 1.5 | 50 % | 50 % | n/a | 3 KiB | 1000 B | 2 ok |",
        "",
        "Mean ± standard deviation over 1/2 seeds; cpu (x86_64, 1 threads); mptrain 1, torch 2, python 3.",
    ]


def test_a_table_for_each_ladder_and_what_cannot_be_read_is_said(tmp_path: Path, capsys: Any) -> None:
    for name, hidden in (("one", 1), ("two", 2), ("three", 3)):
        write_run(tmp_path / name, settings={"name": name, "model": {"hidden": [hidden]}})
    (tmp_path / "two" / "result.json").write_text("{")
    main([str(tmp_path)])
    said = capsys.readouterr()
    assert said.err.startswith(f"note: left out: {tmp_path}/two/result.json: ")
    assert [line for line in said.out.splitlines() if line.startswith("#")] == ["## one", "## three"]


@pytest.mark.parametrize(
    ("result", "says", "code"),
    [
        (None, "does not exist; name a run folder", 2),
        ({"held_bytes": {"measured": {"total": "much"}}}, "result.json: expected `int`, got `str`", 6),
    ],
)
def test_what_has_no_table_is_a_line(
    tmp_path: Path, capsys: Any, result: dict[str, Any] | None, says: str, code: int
) -> None:
    if result is not None:
        write_run(tmp_path / "runs", **result)
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path / "runs")])
    assert ended.value.code == code
    said = capsys.readouterr()
    assert says in said.err
    assert (said.out, said.err.count("\n")) == ("", 1)


def test_a_sweep_s_runs_have_a_table(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "sweep.yaml").write_text(
        "config: base.yaml\nseeds: 1\nvariants:\n  fp32: [precision=fp32]\n"
        "  pure: [precision=fp16-pure, precision.backend=emulated]\n"
    )
    out = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        assert run(["sweep", str(tmp_path / "sweep.yaml"), "--output-dir", str(out), "--quiet"]) == 0
    command = [sys.executable, "-m", "recipes.table", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    fp32, pure = ([cell.strip() for cell in row.split("|")[1:-1]] for row in done.stdout.splitlines()[4:6])
    assert done.stdout.splitlines()[:4] == ["## base", "", *HEAD]
    assert (fp32[0], fp32[4], fp32[6], fp32[9]) == ("fp32", "n/a", "n/a", "1 ok")
    assert (pure[0], pure[4][-1], pure[6][-1], pure[9]) == ("fp16-pure", "%", "%", "1 ok")
    assert float(fp32[7].split()[0]) > float(pure[7].split()[0])
