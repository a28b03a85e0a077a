"""The report as text, CSV and JSON: nothing is left out without a word, and all three say the same."""

import csv
import io
import json

import pytest

from mptrain.report.as_data import as_csv, as_json
from mptrain.report.compare import compare
from mptrain.report.table import text_lines
from mptrain.telemetry.files import strict_json
from tests.report.folders import write_ladder, write_run

BASE = [0.900, 0.910, 0.920]


@pytest.fixture
def report(tmp_path):
    write_ladder(tmp_path / "a", {"fp32": BASE}, samples_per_s=12_345.0, peak_memory_bytes=3 * 2**30)
    write_ladder(tmp_path / "b", {"bf16": [0.901, 0.9105, 0.9195]}, samples_per_s=23_456.0)
    write_ladder(tmp_path / "c", {"fp16": BASE}, emulated=True, final_loss_scale=65536.0, skipped_steps=2)
    write_run(tmp_path / "d", "e4m3", 0, 0.1, status="diverged", error="loss scale at its floor", emulated=True)
    return compare([tmp_path])


def texts(report, width=None):
    return [line.text for line in text_lines(report, width)]


def test_a_pipe_gets_every_column_on_lines_of_any_length(report):
    lines = texts(report)
    assert lines[0] == "small: accuracy, higher is better"
    assert lines[2].split() == (
        [
            "variant",
            "accuracy",
            "difference",
            "to",
            "91.0%",
            "samples/s",
            "speed-up",
            "memory",
            "skips",
            "loss",
            "scale",
            "runs",
        ]
    )
    rows = {line.split("  ")[0]: line for line in lines[3:7]}
    assert rows["fp32 *"].split()[2:] == [
        "91.0",
        "±",
        "2.5%",
        "baseline",
        "n/a",
        "12,345",
        "1.00x",
        "3.0",
        "GiB",
        "0",
        "none",
        "3",
        "ok",
    ]
    assert "23,456" in rows["bf16"]
    assert "1.90x" in rows["bf16"]
    assert "emulated" in rows["fp16"]
    assert rows["fp16"].split()[-3:] == ["65536", "3", "ok"]
    assert rows["e4m3"].endswith("1 diverged")
    assert not any("not shown" in line for line in lines)


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_a_terminal_gets_what_fits_and_is_told_the_rest(report, width):
    lines = texts(report, width)
    assert max(map(len, lines)) <= width
    shown = lines[2]
    said = " ".join(lines)
    for header in ("difference", "to 91.0%", "samples/s", "speed-up", "memory", "skips", "loss scale"):
        assert header in shown or f"{header}," in said or f"{header} (a pipe" in said
    assert ("not shown at this width" in said) == (width < 105)


def test_a_row_is_as_wide_as_its_header_says(report):
    lines = texts(report)
    assert len({len(line.rstrip()) - len(line.rstrip().split("  ")[-1]) for line in lines[2:7]}) == 1


def test_outcomes_have_a_tone(report):
    tones = {line.text.split(":")[0]: line.tone for line in text_lines(report) if ": " in line.text}
    assert tones["fp16"] == "good"
    assert tones["e4m3"] == "bad"
    assert tones["small"] == "title"


def test_csv_has_a_row_a_variant_and_plain_numbers(report):
    rows = list(csv.DictReader(io.StringIO(as_csv(report))))
    assert [row["variant"] for row in rows] == ["fp32", "bf16", "fp16", "e4m3"]
    assert float(rows[0]["metric_mean"]) == pytest.approx(0.91)
    assert rows[0]["is_baseline"] == "true"
    assert (rows[0]["outcome"], rows[0]["difference_mean"]) == ("", "")
    assert float(rows[1]["speedup"]) == pytest.approx(1.9, abs=0.001)
    assert (rows[2]["outcome"], rows[2]["emulated"], rows[2]["samples_per_s_mean"]) == ("identical", "true", "")
    assert json.loads(rows[3]["statuses"]) == {"diverged": 1}
    assert json.loads(rows[1]["settings"])["precision.mode"] == "bf16"


def test_columns_stay(report):
    parts = ("mean", "low", "high", "deviation", "n")
    estimates = ("metric", "train_loss", "samples_per_s", "peak_memory_bytes", "seconds_to_target", "skipped_steps")
    assert as_csv(report).splitlines()[0].split(",") == [
        *[
            "ladder",
            "variant",
            "is_baseline",
            "precision",
            "emulated",
            "runs",
            "metric",
            "higher_is_better",
            "noise_floor",
        ],
        *(f"{name}_{part}" for name in (*estimates, "difference") for part in parts),
        *[
            "paired",
            "p_value",
            "outcome",
            "seeds_needed",
            "speedup",
            "memory_ratio",
            "final_loss_scale_min",
            "final_loss_scale_max",
        ],
        *["statuses", "settings", "verdict"],
    ]


def test_json_is_strict_and_has_every_run_without_curves(report):
    found = json.loads(json.dumps(strict_json(as_json(report)), allow_nan=False))
    assert (found["schema"], found["status"], found["problems"]) == (1, "ok", [])
    (ladder,) = found["ladders"]
    fp32, bf16, fp16, e4m3 = ladder["variants"]
    assert [run["metric"] for run in fp32["runs"]] == BASE
    assert bf16["comparison"]["difference"]["n"] == 3
    assert (fp16["speedup"], e4m3["statuses"], e4m3["runs"][0]["error"]) == (
        None,
        {"diverged": 1},
        "loss scale at its floor",
    )
    assert not {"loss", "skips", "gradients"} & set(fp32["runs"][0])
    assert ladder["recommendation"] == report.ladders[0].recommendation


def test_ladders_stand_one_below_the_other(tmp_path):
    for rate in (0.1, 0.01):
        write_ladder(tmp_path / f"{rate}", {"fp32": BASE, "bf16": BASE}, settings={"optimizer": {"lr": rate}})
    lines = texts(compare([tmp_path]))
    assert [line for line in lines if line.startswith("small, ")] == [
        "small, optimizer.lr=0.01: accuracy, higher is better",
        "small, optimizer.lr=0.1: accuracy, higher is better",
    ]
