"""Which runs are compared with which, what variants are called, and what stands for the baseline."""

from pathlib import Path

import pytest

from mptrain.errors import ConfigError
from mptrain.report.runs import find_runs, read_runs
from mptrain.report.variants import group
from tests.report.folders import write_ladder, write_run


def grouped(folder, *baseline):
    runs, problems = read_runs(find_runs([folder]))
    assert not problems
    return group(runs, baseline)


def labels(ladder):
    return [variant.label for variant in ladder.variants]


def test_runs_that_differ_in_seed_and_output_only_are_one_variant(tmp_path):
    for seed in range(3):
        write_run(tmp_path / f"{seed}", seed=seed, settings={"log": {"every": 5 + seed}, "name": f"n{seed}"})
    (ladder,) = grouped(tmp_path)
    assert [run.seed for run in ladder.variants[0].runs] == [0, 1, 2]
    assert (labels(ladder), ladder.baseline.label, ladder.notes) == (["fp32"], "fp32", ())


def test_labels_are_the_mode_and_what_tells_it_from_others_of_that_mode(tmp_path):
    write_run(tmp_path / "a", "fp16")
    write_run(tmp_path / "b", "fp32")
    write_run(tmp_path / "c", "fp16", settings={"precision": {"loss_scale": {"kind": "static", "init_scale": 1.0}}})
    write_run(tmp_path / "d", "fp16", settings={"precision": {"loss_scale": {"init_scale": 1024.0}}})
    write_run(tmp_path / "e", "bf16-pure")
    write_run(tmp_path / "f", "bf16-pure", settings={"precision": {"rounding": "kahan"}})
    write_run(tmp_path / "g", "bf16", settings={"precision": {"overrides": [{"match": "7", "dtype": "fp32"}]}})
    write_run(tmp_path / "h", "bf16")
    (ladder,) = grouped(tmp_path)
    assert labels(ladder) == [
        "fp32",
        "fp16",
        "fp16, loss_scale=static 1",
        "fp16, loss_scale=auto 1024",
        "bf16-pure",
        "bf16-pure, rounding=kahan",
        'bf16, overrides=[{match: "7", dtype: fp32}]',
        "bf16",
    ]
    assert ladder.baseline.label == "fp32"
    assert ladder.variants[2].settings["precision.loss_scale.init_scale"] == 1.0


def test_other_models_and_rates_are_other_ladders(tmp_path):
    write_ladder(tmp_path / "a", {"fp32": [0.9], "bf16": [0.9]})
    write_ladder(tmp_path / "b", {"fp32": [0.9], "bf16": [0.9]}, settings={"optimizer": {"lr": 0.1}})
    conv = {"name": "conv", "model": {"name": "small_convnet", "hidden": None}}
    write_ladder(tmp_path / "c", {"fp32": [0.9], "bf16": [0.9]}, settings=conv)
    ladders = grouped(tmp_path)
    assert [ladder.title for ladder in ladders] == ["small, optimizer.lr=0.01", "small, optimizer.lr=0.1", "conv"]
    assert all(labels(ladder) == ["fp32", "bf16"] for ladder in ladders)
    assert ladders[1].common["optimizer.lr"] == 0.1


def test_rates_of_one_precision_are_variants_without_a_baseline(tmp_path):
    for rate in (0.1, 0.01):
        write_run(tmp_path / f"{rate}", settings={"optimizer": {"lr": rate}})
    (ladder,) = grouped(tmp_path)
    assert labels(ladder) == ["optimizer.lr=0.01", "optimizer.lr=0.1"]
    assert ladder.baseline is None
    assert "--baseline KEY=VALUE, KEY being one of optimizer.lr" in ladder.notes[0]
    (ladder,) = grouped(tmp_path, "optimizer.lr=1e-1")
    assert ladder.baseline.label == "optimizer.lr=0.1"


def test_a_named_baseline_compares_its_keys_and_sets_ladders_apart_by_the_rest(tmp_path):
    for rate in (0.1, 0.01):
        write_ladder(tmp_path / f"{rate}", {"fp32": [0.9], "bf16": [0.9]}, settings={"optimizer": {"lr": rate}})
    by_rate = grouped(tmp_path, "optimizer.lr=0.1")
    assert [ladder.title for ladder in by_rate] == ["small, precision.mode=fp32", "small, precision.mode=bf16"] or [
        ladder.title for ladder in by_rate
    ] == ["small, precision.mode=bf16", "small, precision.mode=fp32"]
    assert all(labels(ladder) == ["optimizer.lr=0.1", "optimizer.lr=0.01"] for ladder in by_rate)
    (both,) = grouped(tmp_path, "optimizer.lr=0.1", "precision=bf16")
    assert both.baseline.label == "bf16, optimizer.lr=0.1"
    assert set(labels(both)) == {f"{mode}, optimizer.lr={rate}" for mode in ("fp32", "bf16") for rate in (0.1, 0.01)}


def test_a_precision_that_auto_chose_is_known_by_what_was_in_force(tmp_path):
    write_run(tmp_path / "a", "bf16")
    force = {"precision": {"mode": "auto"}}
    write_run(tmp_path / "b", "fp32", settings=force)
    (ladder,) = grouped(tmp_path)
    write_run(tmp_path / "c", "fp32", 1)
    (ladder,) = grouped(tmp_path)
    assert ladder.baseline.label == "fp32"
    assert [run.seed for run in ladder.baseline.runs] == [0, 1]


def test_no_fp32_means_no_baseline_and_that_is_said(tmp_path):
    write_ladder(tmp_path, {"fp16": [0.9], "bf16": [0.9]})
    (ladder,) = grouped(tmp_path)
    assert ladder.baseline is None
    assert ladder.notes[0].startswith("no variant is FP32, so nothing is compared; name a baseline with --baseline")
    assert grouped(tmp_path, "precision=bf16")[0].baseline.label == "bf16"


@pytest.mark.parametrize(
    ("baseline", "said"),
    [
        ("precision=fp23", "no run has that value; there is bf16, fp32 (did you mean 'fp32'?)"),
        ("precison.mode=fp32", "no run has that key (did you mean 'precision.mode'?)"),
        ("seed=0", "seed tells no variants apart"),
        ("log.every=10", "log.every tells no variants apart"),
        ("precision", "has no '='"),
    ],
)
def test_a_baseline_that_cannot_be_is_explained(tmp_path, baseline, said):
    write_ladder(tmp_path, {"fp32": [0.9], "bf16": [0.9]})
    with pytest.raises(ConfigError) as caught:
        grouped(tmp_path, baseline)
    assert said in str(caught.value)


def test_a_baseline_that_fits_several_variants_is_refused(tmp_path):
    write_run(tmp_path / "a", "fp16")
    write_run(tmp_path / "b", "fp16", settings={"precision": {"loss_scale": {"kind": "static", "init_scale": 1.0}}})
    with pytest.raises(ConfigError, match=r"fits several variants of small \(fp16; fp16, loss_scale=static 1\)"):
        grouped(tmp_path, "precision=fp16")
    (ladder,) = grouped(tmp_path, "precision.loss_scale=1")
    assert ladder.baseline.label == "fp16, loss_scale=static 1"


def test_of_two_runs_of_a_seed_the_newest_that_finished_counts(tmp_path):
    import os

    old, new = write_run(tmp_path / "old", accuracy=0.5), write_run(tmp_path / "new", accuracy=0.6)
    killed = write_run(tmp_path / "killed")
    (killed / "result.json").unlink()
    for age, folder in enumerate((killed, new, old)):
        for file in folder.iterdir():
            os.utime(file, (1e9 - age, 1e9 - age))
    (ladder,) = grouped(tmp_path)
    assert [Path(run.path).name for run in ladder.variants[0].runs] == ["new"]
    assert f"{new} is the newest that finished and counts" in ladder.notes[0]
    assert str(old) in ladder.notes[0]
    assert str(killed) in ladder.notes[0]


def test_a_key_that_older_runs_lack_tells_nothing_apart(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", "bf16", settings={"train": {"invented_later": 3}})
    (ladder,) = grouped(tmp_path)
    assert labels(ladder) == ["fp32", "bf16"]


def test_labels_stay_unique_when_they_are_shortened(tmp_path):
    long = "layer" * 30
    for end in "xyz":
        rule = [{"match": f"{long}{end}{long}", "dtype": "fp32"}]
        write_run(tmp_path / end, "bf16", settings={"precision": {"overrides": rule}})
    (ladder,) = grouped(tmp_path)
    assert len(set(labels(ladder))) == 3
    assert all(len(label) < 80 for label in labels(ladder))


def test_phases_are_named_in_turn(tmp_path):
    write_run(tmp_path / "a")
    phases = [{"until": 0.5, "mode": "bf16"}, {"until": 1.0, "mode": "fp16"}]
    write_run(tmp_path / "b", "fp16", settings={"precision": {"mode": "auto", "phases": phases}})
    (ladder,) = grouped(tmp_path)
    assert labels(ladder) == ["fp32", "bf16 then fp16"]


def test_a_drill_stands_beside_the_runs_it_was_made_of(tmp_path):
    for seed in range(2):
        write_run(tmp_path / f"{seed}", seed=seed)
    write_run(tmp_path / "drill", "fp32", 2, settings={"debug": {"plant": [{"what": "oom", "at": 3}]}})
    write_run(tmp_path / "d", "bf16", settings={"debug": {"plant": []}})
    write_run(tmp_path / "e", "fp32", 3, settings={"debug": {"plant": []}})
    (ladder,) = grouped(tmp_path)
    assert "fp32, drill" in labels(ladder)
