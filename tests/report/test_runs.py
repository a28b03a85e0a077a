"""Run folders are read whole or not at all: what is damaged is named by file and line, what a kill left is read."""

import json
import os
import subprocess
import sys

import pytest

from mptrain.errors import ConfigError, DataError
from mptrain.precision.formats import get_format
from mptrain.report.format_range import format_range
from mptrain.report.runs import find_runs, read_run, read_runs
from mptrain.report.thinning import POINTS, BucketMeans, thinned
from tests.report.folders import evaluation, event, lines, train, write_run


def append(folder, text, name="metrics.jsonl"):
    with (folder / name).open("a") as file:
        file.write(text)


def test_runs_are_found_at_any_depth_once_and_not_within_runs(tmp_path):
    a, b = write_run(tmp_path / "x" / "a"), write_run(tmp_path / "x" / "y" / "b")
    write_run(a / "checkpoints" / "inner")
    (tmp_path / "link").symlink_to(a)
    assert find_runs([tmp_path]) == [a, b]
    assert find_runs([b, tmp_path, tmp_path / "link"]) == [b, a]


def test_a_folder_that_cannot_be_looked_into_is_named(tmp_path, monkeypatch):
    write_run(tmp_path / "a")
    (tmp_path / "closed").mkdir()
    real = os.scandir

    def scandir(path):
        if os.path.basename(path) == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert find_runs([tmp_path]) == [tmp_path / "a", tmp_path / "closed"]


def test_paths_without_a_run_are_named_all_at_once(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError) as caught:
        find_runs([tmp_path / "gone", tmp_path / "empty", tmp_path / "file"])
    assert [problem.split(": ")[1].split(";")[0] for problem in caught.value.problems] == [
        "does not exist",
        "no run is in it",
        "is a file",
    ]


def test_a_real_run(sweep):
    run = read_run(sweep / "small" / "fp16-0")
    result = json.loads((sweep / "small" / "fp16-0" / "result.json").read_text())
    assert (run.status, run.metric_name, run.higher_is_better) == ("ok", "accuracy", True)
    assert run.metric == result["metrics"]["accuracy"]
    assert (run.precision.mode, run.precision.backend, run.samples_per_s) == ("fp16", "emulated", None)
    assert (run.attempted_steps, run.skipped_steps) == (result["attempted_steps"], result["skipped_steps"])
    assert run.final_loss_scale == result["final_loss_scale"]
    assert [each.step for each in run.evaluations] == [10, 20]
    assert run.loss.steps[-1] == 20
    assert run.settings["model.hidden"] == [16]
    assert run.settings["optimizer.eps"] == 1e-8
    assert run.environment["device"].startswith("cpu")
    assert run.environment["tf32"] == "off"
    gradients = run.gradients
    assert (gradients.format, gradients.largest) == ("fp16", 65504.0)
    assert sum(gradients.counts) + gradients.zeros == 8 * 16 + 16 + 2 * 16 + 16 * 4 + 4  # every parameter
    assert run.loss_scale.values[0] == 65536.0


def test_a_real_run_that_diverged(sweep):
    run = read_run(sweep / "small" / "fp8-0")
    assert run.status == "diverged"
    assert "the loss was not finite 3 times in a row" in run.error
    assert (run.skips, run.planted, run.metric) == ((7, 8, 9), True, None)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"type": "train"\n', ":5: "),
        (lines([train(60)]).replace("1.0", "NaN", 1), ":5: "),
        (lines([train(60, loss="low")]), "expected `float | null`, got `str`"),
        (lines([{**train(60), "type": "trial"}]), "invalid value 'trial'"),
        (lines([train(60)]).rstrip() + lines([train(61)]), ":5: "),
        ("\n", ":5: "),
        (lines([train(60)]) + "\0" * 40 + "\n", ":6: "),
        ('{"type": "train", "loss": null}\n', "missing required field"),
        ('{"x": ' + "[" * 10_000 + "\n", "recursion"),
    ],
)
def test_a_damaged_line_is_named(tmp_path, line, said):
    folder = write_run(tmp_path / "a")
    append(folder, line + lines([train(70)]))
    with pytest.raises(DataError) as caught:
        read_run(folder)
    assert f"{folder}/metrics.jsonl:" in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_line_far_into_the_file_has_its_number(tmp_path):
    folder = write_run(tmp_path / "a")
    (folder / "metrics.jsonl").write_text(lines(train(step) for step in range(1, 3001)) + "{}\n" + lines([train(1)]))
    with pytest.raises(DataError, match=r"metrics\.jsonl:3001: "):
        read_run(folder)


def test_a_histogram_of_less_than_nothing_is_damage(tmp_path):
    folder = write_run(tmp_path / "a")
    sample = {"format": "fp16", "loss_scale": 1.0, "histogram": {"first_exponent": 0, "counts": [-1, 1], "zeros": 0}}
    append(folder, lines([train(60, numerics=sample)]))
    with pytest.raises(DataError, match=r"metrics\.jsonl: expected `int` >= 0"):
        read_run(folder)


def test_a_metric_whose_square_overflows_counts_as_not_finite(tmp_path):
    run = read_run(write_run(tmp_path / "a", metrics={"accuracy": 1e300}))
    assert (run.metric, run.metric_recorded) == (None, True)


def test_a_torn_last_line_is_left_out(tmp_path):
    folder = write_run(tmp_path / "a")
    append(folder, lines([train(60)]) + '{"type": "train", "att')
    assert read_run(folder).loss.steps == (20, 40, 60)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("result.json", '{"schema": 2, "status": "ok"', "result.json"),
        ("result.json", None, "its schema is 7"),
        ("config.yaml", "a: [1\n", "config.yaml:2: not valid YAML"),
        ("config.yaml", "- 1\n", "holds no mapping"),
        ("config.yaml", "", "is empty"),
        ("config.yaml", "a: &a [*a]\n", "config.yaml"),
        ("config.yaml", "a: !!python/object:os.system x\n", "config.yaml:1"),
        ("env.json", "[]", "env.json"),
        ("events.jsonl", '{"kind": 3}\n', "events.jsonl:1"),
        ("events.jsonl", lines([event("scale_change", 3, {"from": 1.0})]), "events.jsonl"),
    ],
)
def test_damaged_files_are_problems_and_the_others_are_read(tmp_path, name, text, said):
    good, bad = write_run(tmp_path / "good"), write_run(tmp_path / "bad")
    if text is None:
        text = json.dumps({**json.loads((bad / name).read_text()), "schema": 7})
    (bad / name).write_text(text)
    runs, problems = read_runs([good, bad])
    assert [run.path for run in runs] == [str(good)]
    assert len(problems) == 1
    assert said in problems[0]


def test_no_pipe_is_waited_for(tmp_path):
    folder = write_run(tmp_path / "a")
    (folder / "metrics.jsonl").unlink()
    os.mkfifo(folder / "metrics.jsonl")
    with pytest.raises(DataError, match="it is no file"):
        read_run(folder)


def test_a_run_without_a_result_has_the_figures_of_its_last_window(tmp_path):
    folder = write_run(tmp_path / "a", "bf16")
    (folder / "result.json").unlink()
    append(folder, lines([train(60, 0.5, samples_per_s=250.0, skipped_steps=2, loss_scale=64.0)]))
    run = read_run(folder)
    assert (run.status, run.metric, run.train_loss) == ("killed", 0.9, 0.5)
    assert (run.samples_per_s, run.skipped_steps, run.final_loss_scale) == (250.0, 2, 64.0)
    assert run.precision.mode == "bf16"


def test_a_living_run_is_running_and_its_earlier_result_does_not_count(tmp_path):
    folder = write_run(tmp_path / "a")
    hold = "import sys, time; from mptrain.trainer.run_lock import hold; from pathlib import Path\n"
    hold += "with hold(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", hold, str(folder)], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"held\n"
            run = read_run(folder)
        finally:
            process.kill()
    assert (run.status, run.error, run.train_loss) == ("running", None, 1.0)


def test_training_time_goes_on_over_processes(tmp_path):
    folder = write_run(tmp_path / "a")
    second = [train(60, wall_s=0.2), evaluation(62, 0.95), train(80, wall_s=0.5), evaluation(80, 0.96)]
    append(folder, lines(second))
    seconds = [each.seconds for each in read_run(folder).evaluations]
    assert seconds == pytest.approx([0.2, 0.4, 0.62, 0.9])  # at 62: two steps of 10 ms after the window at 60


@pytest.mark.parametrize(
    ("evaluations", "expected"),
    [
        ([evaluation(1, 0.5), evaluation(2, 0.6)], True),
        ([evaluation(1, 0.5), evaluation(2, 0.4)], False),
        ([evaluation(1, 0.5), evaluation(2, 0.6, improved=False)], False),
        ([evaluation(1, 0.5), evaluation(2, 0.4, improved=False), evaluation(3, 0.6)], True),
        ([evaluation(1, 0.5), evaluation(2, 0.5, improved=False)], None),
    ],
)
def test_an_older_run_tells_by_its_evaluations_which_way_is_better(tmp_path, evaluations, expected):
    folder = write_run(tmp_path / "a", main_metric=None)
    (folder / "metrics.jsonl").write_text(lines([train(1), *evaluations]))
    assert read_run(folder).higher_is_better is expected


def test_another_metric_is_read_from_every_evaluation(tmp_path):
    folder = write_run(tmp_path / "a")
    run = read_run(folder, "loss")
    assert (run.metric_name, run.metric, run.higher_is_better) == ("loss", 1.0, None)
    assert [each.value for each in run.evaluations] == [1.0, 1.0]


def test_scale_changes_and_skips(tmp_path):
    folder = write_run(tmp_path / "a", "fp16")
    (folder / "metrics.jsonl").write_text(lines([train(20, loss_scale=256.0), train(40, loss_scale=128.0)]))
    changes = [event("overflow", 7), event("scale_change", 8, {"from": 1024.0, "to": 256.0}, 6)]
    changes += [event("micro_batch", 9, {"from": 8, "to": 4}), event("nonfinite_loss", 30)]
    (folder / "events.jsonl").write_text(lines([*changes, event("scale_change", 31, {"from": 256.0, "to": 128.0})]))
    run = read_run(folder)
    assert run.skips == (7, 30)
    assert (run.loss_scale.steps, run.loss_scale.values) == ((0, 6, 31, 40), (1024.0, 256.0, 128.0, 128.0))


def test_many_runs_are_read_by_several_processes_in_order(tmp_path, monkeypatch):
    folders = [write_run(tmp_path / f"{number}", seed=number) for number in range(5)]
    (folders[3] / "config.yaml").write_text("")
    monkeypatch.setattr("mptrain.report.runs._POOL_BYTES", 0)
    runs, problems = read_runs(folders)
    assert [run.seed for run in runs] == [0, 1, 2, 4]
    assert len(problems) == 1


def test_curves_are_thinned_by_means_while_they_are_read():
    curve = BucketMeans()
    for step in range(1, 10_001):
        curve.add(step, None if step == 5000 else float(step))
    found = curve.curve()
    width = found.steps[1] - found.steps[0]
    assert POINTS / 2 <= len(found.steps) <= POINTS
    assert found.steps[-1] == 10_000
    assert found.values[0] == pytest.approx((1 + width) / 2)
    assert all(value is not None for value in found.values)


def test_what_is_not_finite_stays_a_gap_where_a_bucket_has_nothing_else():
    curve = BucketMeans()
    for step in range(1, 1001):
        curve.add(step, None if 500 < step <= 900 else 1.0)
    values = curve.curve().values
    assert set(values) == {1.0, None}
    assert values[-1] == 1.0


def test_few_points_are_kept_as_they_are_and_of_many_the_ends():
    assert thinned([1, 2, 3]) == [1, 2, 3]
    found = thinned(range(10_000))
    assert (len(found), found[0], found[-1]) == (POINTS, 0, 9999)


FORMATS = ["fp64", "fp32", "tf32", "fp16", "bf16", *(f"e{e}m{m}" for e in range(1, 9) for m in (0, 1, 2, 3, 7, 23))]


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "e1m0"])
def test_ranges_are_those_of_the_formats(name):
    fmt = get_format(name)
    assert format_range(name) == (fmt.smallest_subnormal, fmt.smallest_normal, fmt.max)


def test_no_range_of_what_is_no_format():
    assert format_range("int8") is None
    assert format_range("e1m0") is None
