"""From run folders to sentences: what is called better, what is refused, what a reader is told beside it."""

import json

import pytest

from mptrain.errors import ConfigError, DataError
from mptrain.report.compare import compare
from tests.report.conftest import SEEDS, VARIANTS
from tests.report.folders import evaluation, lines, train, write_ladder, write_run

BASE = [0.900, 0.910, 0.920, 0.905, 0.915]


def ladder_of(folder, **options):
    report = compare([folder], **options)
    assert not report.problems
    (ladder,) = report.ladders
    return ladder


def variants(ladder):
    return {variant.label: variant for variant in ladder.variants}


def near(by, jitter=0.0005):
    """Return the baseline's accuracies moved by `by`, up and down a little."""
    return [value + by + jitter * (-1) ** index for index, value in enumerate(BASE)]


def test_a_real_sweep(sweep):
    ladder = ladder_of(sweep)
    found = variants(ladder)
    assert (ladder.title, ladder.metric, ladder.higher_is_better, ladder.as_points) == ("small", "accuracy", True, True)
    assert set(found) == {
        "fp32", "bf16", "fp16", "fp16, loss_scale=static 1", "bf16-pure, rounding=kahan", "e4m3, drill"
    }  # fmt: skip
    assert ladder.variants[0].is_baseline
    assert len(found) == len(VARIANTS) + 1
    results = [json.loads((sweep / "small" / f"fp32-{seed}" / "result.json").read_text()) for seed in range(SEEDS)]
    base = found["fp32"]
    accuracies = [result["metrics"]["accuracy"] for result in results]
    assert [member.metric for member in base.members] == accuracies
    assert base.metric.mean == pytest.approx(sum(accuracies) / SEEDS)
    assert base.samples_per_s.mean == pytest.approx(sum(result["samples_per_s"] for result in results) / SEEDS)
    assert base.speedup == base.memory_ratio == 1
    assert base.seconds_to_target.n >= 1
    assert found["bf16"].comparison.paired
    assert found["bf16"].comparison.difference.n == SEEDS
    assert found["bf16"].speedup is not None
    emulated = found["fp16"]
    assert (emulated.speedup, emulated.samples_per_s, emulated.seconds_to_target) == (None, None, None)
    assert "emulated" in emulated.precision
    assert emulated.members[0].gradients.format == "fp16"
    assert found["e4m3, drill"].comparison.outcome == "failed"
    assert found["e4m3, drill"].verdict == "e4m3, drill: diverged in 1 of 1 seed: do not use it."
    assert "baseline fp32: TF32 off" in ladder.notes
    assert any(note.startswith("planted faults") for note in ladder.notes)
    assert ladder.environment["device"].startswith("cpu")


def test_the_same_and_faster_is_used(tmp_path):
    write_ladder(tmp_path / "a", {"fp32": BASE})
    write_ladder(tmp_path / "b", {"bf16": near(0.0005)}, samples_per_s=190.0, peak_memory_bytes=610)
    ladder = ladder_of(tmp_path)
    assert ladder.noise_floor == pytest.approx(0.0079, abs=1e-4)
    assert variants(ladder)["bf16"].verdict == (
        "bf16: same accuracy within noise (+0.06 ± 0.07 points, 5 seeds), 1.9 times faster, 0.61 of the memory: use it."
    )
    assert ladder.recommendation == "Use bf16: accuracy is as good, 1.9 times faster, 0.61 of the memory."


def test_what_is_worse_is_not_used_however_fast(tmp_path):
    write_ladder(tmp_path / "a", {"fp32": BASE})
    write_ladder(tmp_path / "b", {"fp16": near(-0.031, 0.004)}, samples_per_s=500.0)
    ladder = ladder_of(tmp_path)
    assert variants(ladder)["fp16"].verdict == "fp16: worse by 3.0 ± 0.5 points (5 seeds): do not use it."
    assert ladder.recommendation == "Stay with fp32: nothing else learns as well."


def test_too_few_seeds_are_said(tmp_path):
    write_ladder(tmp_path / "a", {"fp32": BASE[:2]})
    write_ladder(tmp_path / "b", {"bf16": [0.9009, 0.9137]}, samples_per_s=200.0)
    ladder = ladder_of(tmp_path)
    needed = variants(ladder)["bf16"].comparison.seeds_needed
    assert variants(ladder)["bf16"].verdict == (
        f"bf16: cannot tell: +0.2 ± 1.8 points over 2 seeds; about {needed} seeds would."
    )
    assert 3 <= needed <= 6
    assert ladder.recommendation.startswith("Stay with fp32 for now: bf16 is 2.0 times faster, but 2 seeds cannot tell")


def test_a_difference_that_is_sure_only_by_itself_is_probable(tmp_path):
    """p = 0.02 is below 5%, three times that (Holm, three comparisons) is not."""
    base = [0.750, 0.753, 0.756]
    others = {mode: [0.75, 0.76, 0.754] for mode in ("bf16", "fp16")}
    write_ladder(tmp_path, {"fp32": base, "bf16-pure": [0.737, 0.744, 0.741]} | others)
    found = variants(ladder_of(tmp_path))["bf16-pure"]
    assert found.comparison.outcome == "unclear"
    assert 0.05 < found.comparison.p_value < 0.15
    assert found.verdict == (
        "bf16-pure: probably worse: -1.2 ± 0.8 points over 3 seeds, but among 3 comparisons that can be chance; "
        "about 4 seeds would tell."
    )


def test_one_seed_cannot_tell(tmp_path):
    write_ladder(tmp_path, {"fp32": [0.9], "bf16": [0.5]})
    ladder = ladder_of(tmp_path)
    assert variants(ladder)["bf16"].verdict == "bf16: one seed cannot tell (-40.0 points); three or more would."
    assert ladder.noise_floor is None


def test_slower_and_the_same_is_no_gain(tmp_path):
    write_ladder(tmp_path / "a", {"fp32": BASE})
    write_ladder(tmp_path / "b", {"bf16": list(BASE)}, samples_per_s=60.0)
    ladder = ladder_of(tmp_path)
    assert variants(ladder)["bf16"].verdict == (
        "bf16: identical accuracy in 5 seeds, 0.6 times the speed: no gain here."
    )
    assert ladder.recommendation == "Stay with fp32: nothing that learns as well is faster or smaller."


def test_smaller_and_no_faster_is_for_short_memory(tmp_path):
    write_ladder(tmp_path / "a", {"fp32": BASE})
    write_ladder(tmp_path / "b", {"bf16": list(BASE)}, peak_memory_bytes=500)
    ladder = ladder_of(tmp_path)
    assert variants(ladder)["bf16"].verdict.endswith("as fast, 0.50 of the memory: use it where memory is short.")
    assert ladder.recommendation.startswith("Stay with fp32, or use bf16 where memory is short:")


def test_emulated_speed_says_nothing(tmp_path):
    write_ladder(tmp_path / "a", {"fp32": BASE})
    write_ladder(tmp_path / "b", {"fp16": list(BASE)}, emulated=True)
    ladder = ladder_of(tmp_path)
    assert "emulated, so its speed says nothing" in variants(ladder)["fp16"].verdict
    assert variants(ladder)["fp16"].speedup is None
    assert ladder.recommendation.startswith("Stay with fp32 on this device; fp16 learns as well")


def test_a_loader_that_sets_the_pace_is_said(tmp_path):
    write_ladder(tmp_path / "a", {"fp32": BASE}, data_wait_fraction=0.6)
    write_ladder(tmp_path / "b", {"bf16": list(BASE)}, data_wait_fraction=0.7)
    ladder = ladder_of(tmp_path)
    assert variants(ladder)["bf16"].verdict.endswith("as fast: the loader sets the pace, precision cannot help.")
    assert "the loader sets the pace of fp32; bf16: precision cannot make it faster" in ladder.notes


@pytest.mark.parametrize(
    ("statuses", "said"),
    [
        (["ok", "diverged", "diverged"], "diverged in 2 of 3 seeds: do not use it"),
        (["crashed", "ok", "ok"], "crashed in 1 of 3 seeds: RuntimeError: bad luck"),
        (["oom", "oom", "oom"], "ran out of memory in 3 of 3 seeds: it does not fit here"),
        (["ok", "ok", "preempted"], "was stopped in 1 of 3 seeds: go on with --resume auto"),
        (["diverged", "ok", "oom"], "diverged in 1 of 3 seeds and ran out of memory in 1 of 3 seeds: do not use it"),
    ],
)
def test_runs_that_did_not_end_well_are_a_row(tmp_path, statuses, said):
    write_ladder(tmp_path / "a", {"fp32": BASE[:3]})
    for seed, status in enumerate(statuses):
        write_run(tmp_path / f"{seed}", "bf16", seed, BASE[seed], status=status, error="RuntimeError: bad luck")
    ladder = ladder_of(tmp_path)
    found = variants(ladder)["bf16"]
    assert found.comparison.outcome == "failed"
    assert found.verdict == f"bf16: {said}."
    assert found.metric is None or found.metric.n == statuses.count("ok")


def test_a_metric_that_is_not_finite_has_failed(tmp_path):
    write_ladder(tmp_path / "a", {"fp32": BASE[:2]})
    write_ladder(tmp_path / "b", {"bf16": BASE[:2]}, metrics={"accuracy": float("nan")})
    assert variants(ladder_of(tmp_path))["bf16"].verdict == "bf16: no finite accuracy in 2 of 2 seeds: do not use it."


def test_a_run_with_an_unmet_expectation_was_trained_to_its_end(tmp_path):
    write_ladder(tmp_path / "a", {"fp32": BASE})
    write_ladder(tmp_path / "b", {"bf16": list(BASE)}, status="unmet")
    assert variants(ladder_of(tmp_path))["bf16"].comparison.outcome == "identical"


def test_seeds_that_are_missing_are_named_and_the_shared_ones_paired(tmp_path):
    write_ladder(tmp_path / "a", {"fp32": BASE})
    write_ladder(tmp_path / "b", {"bf16": BASE[:3]})
    ladder = ladder_of(tmp_path)
    assert variants(ladder)["bf16"].comparison.difference.n == 3
    assert "bf16 has no seed 3, 4" in ladder.notes


def test_a_baseline_that_failed_in_a_seed_is_compared_without_it(tmp_path):
    write_ladder(tmp_path / "a", {"fp32": BASE[:3], "bf16": BASE[:3]})
    folder = write_run(tmp_path / "b", "fp32", 3, 0.1, status="diverged")
    ladder = ladder_of(tmp_path)
    assert variants(ladder)["bf16"].comparison.outcome == "identical"
    assert f"baseline fp32: without accuracy of {folder}" in ladder.notes
    assert "diverged in 1 of 4 seeds" in variants(ladder)["fp32"].verdict


def test_a_baseline_that_never_got_anywhere_is_no_advice(tmp_path):
    write_ladder(tmp_path / "a", {"fp32": [None] * 3}, status="diverged")
    write_ladder(tmp_path / "b", {"bf16": BASE[:3]})
    assert ladder_of(tmp_path).recommendation == (
        "No advice: the baseline fp32 has no accuracy to compare with; name another by --baseline."
    )


def test_runs_of_another_task_have_no_value_of_the_metric(tmp_path):
    write_ladder(tmp_path / "a", {"fp32": BASE[:3]})
    other = {"main_metric": {"name": "mse", "higher_is_better": False}, "metrics": {"mse": 5.0, "loss": 5.0}}
    write_ladder(tmp_path / "b", {"bf16": BASE[:2]}, **other)
    found = variants(ladder_of(tmp_path))["bf16"]
    assert (found.metric, found.comparison.outcome) == (None, "unclear")
    assert found.verdict == "bf16: cannot tell: accuracy is not known for both it and fp32."


def test_a_metric_that_only_some_runs_have_is_no_failure_of_the_others(tmp_path):
    write_ladder(tmp_path / "a", {"fp32": BASE[:3]}, metrics={"accuracy": 0.9, "top5_accuracy": 0.99})
    write_ladder(tmp_path / "b", {"bf16": BASE[:3]})
    found = variants(ladder_of(tmp_path, metric="top5_accuracy"))["bf16"]
    assert found.verdict == "bf16: cannot tell: top5_accuracy is not known for both it and fp32."


def test_without_a_baseline_nothing_is_compared(tmp_path):
    write_ladder(tmp_path, {"bf16": BASE, "fp16": BASE})
    ladder = ladder_of(tmp_path)
    assert all(variant.comparison is None for variant in ladder.variants)
    assert ladder.recommendation == ""
    assert variants(ladder)["bf16"].verdict.startswith("bf16: accuracy 91.0 ± 1.0% (5 seeds).")
    assert variants(ladder_of(tmp_path, baseline=["precision=fp16"]))["bf16"].comparison.outcome == "identical"


def test_the_time_to_the_baseline_s_metric(tmp_path):
    def slow(folder, accuracies):
        records = [[train(10 * at, wall_s=float(at)), evaluation(10 * at, value)] for at, value in accuracies]
        (folder / "metrics.jsonl").write_text(lines(record for pair in records for record in pair))

    slow(write_run(tmp_path / "a", accuracy=0.8), [(1, 0.5), (2, 0.7), (3, 0.8)])
    slow(write_run(tmp_path / "b", "bf16", accuracy=0.81), [(1, 0.6), (2, 0.85), (3, 0.81)])
    slow(write_run(tmp_path / "c", "fp16", accuracy=0.79), [(1, 0.6), (2, 0.79), (3, 0.79)])
    found = variants(ladder_of(tmp_path))
    assert found["fp32"].seconds_to_target.mean == 3.0
    assert found["bf16"].seconds_to_target.mean == 2.0
    assert found["fp16"].seconds_to_target is None


def test_another_metric_turns_the_direction(tmp_path):
    for seed, base in enumerate((0.50, 0.51, 0.52)):
        write_run(tmp_path / f"a{seed}", seed=seed, metrics={"accuracy": 0.9, "loss": base})
        write_run(tmp_path / f"b{seed}", "bf16", seed, metrics={"accuracy": 0.9, "loss": base - 0.1 + 0.001 * seed})
    ladder = ladder_of(tmp_path, metric="loss")
    assert (ladder.metric, ladder.higher_is_better, ladder.as_points) == ("loss", False, False)
    found = variants(ladder)["bf16"]
    assert found.comparison.outcome == "better"
    assert found.verdict.startswith("bf16: better by 0.099 ± 0.002 in loss (3 seeds)")
    with pytest.raises(ConfigError, match=r"no run has it; there is accuracy, loss \(did you mean 'loss'\?\)"):
        compare([tmp_path], metric="los")


def test_a_direction_that_nobody_knows_is_a_problem(tmp_path):
    invented = {"main_metric": None, "metrics": {"zeal": 0.5}}
    folder = write_run(tmp_path / "a", **invented)
    (folder / "metrics.jsonl").write_text(lines([train(1), evaluation(1, 0.5, metric="zeal")]))
    with pytest.raises(DataError, match="whether more zeal is better is not known"):
        compare([tmp_path])


def test_different_machines_are_said(tmp_path):
    write_run(tmp_path / "a", device="cuda (NVIDIA H200)")
    write_run(tmp_path / "b", "bf16", device="cuda (NVIDIA A100)")
    ladder = ladder_of(tmp_path)
    assert ladder.environment["device"] == ["cuda (NVIDIA H200)", "cuda (NVIDIA A100)"]
    assert any("their speeds do not compare" in note for note in ladder.notes)


def test_a_ladder_whose_runs_all_failed_early(tmp_path):
    for mode in ("fp32", "bf16"):
        folder = write_run(tmp_path / mode, mode, status="oom", metrics={}, main_metric=None)
        (folder / "metrics.jsonl").write_text("")
    ladder = ladder_of(tmp_path)
    assert ladder.metric == "no metric"
    assert variants(ladder)["fp32"].verdict == "fp32: ran out of memory in 1 of 1 seed: it does not fit here."


def test_nothing_readable_is_an_error(tmp_path):
    folder = write_run(tmp_path / "a")
    (folder / "result.json").write_text("{")
    with pytest.raises(DataError, match=r"result\.json"):
        compare([tmp_path])
