"""Which runs a sweep has: every combination, validated, in a folder of its own whose name tells what it is."""

import re
from pathlib import Path

import pytest

from mptrain.catalog import to_yaml
from mptrain.errors import CapabilityError, ConfigError
from mptrain.sweep.child import Child
from mptrain.sweep.folders import look
from mptrain.sweep.plan import Plan, make_plan
from mptrain.sweep.request import read_request
from mptrain.sweep.rows import make_rows
from mptrain.telemetry.files import indented
from mptrain.trainer.run_lock import hold

ROOT = Path(__file__).parents[2]
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # the rule of --run-id


def plan(*arguments: str, **options) -> Plan:
    request = read_request(arguments, **options)
    return make_plan(request.configs, request.axes, common=request.common)


def ids(*arguments: str, **options) -> list[str]:
    found = [run.run_id for run in plan(*arguments, **options).runs]
    assert all(RUN_ID.fullmatch(run_id) for run_id in found)
    return found


def test_every_combination_the_last_key_fastest(here):
    found = plan("small.yaml", "precision=fp32,bf16", "seed=0..1", "optimizer.lr=0.1")
    assert [run.label for run in found.runs] == [
        "precision=fp32 seed=0",
        "precision=fp32 seed=1",
        "precision=bf16 seed=0",
        "precision=bf16 seed=1",
    ]
    run = found.runs[2]
    assert run.overrides == ("precision=bf16", "seed=0", "optimizer.lr=0.1")
    assert run.run_dir == Path("runs/small/precision-bf16_seed-0_optimizer.lr-0.1")
    assert (run.config.precision.mode, run.config.seed, run.config.optimizer.lr) == ("bf16", 0, 0.1)
    assert run.arguments() == [
        *("run", "small.yaml", "precision=bf16", "seed=0", "optimizer.lr=0.1", "--output-dir", "runs"),
        *("--run-id", "precision-bf16_seed-0_optimizer.lr-0.1", "--resume", "auto", "--quiet"),
    ]


def test_a_config_whose_name_begins_with_a_dash_is_no_option(here):
    Path("-x.yaml").write_text(f"name: x\n{Path('small.yaml').read_text()}")
    [run] = plan("-x.yaml").runs
    assert run.arguments()[:3] == ["run", "./-x.yaml", "--output-dir"]


def test_ids_are_plain_names_and_stay_the_same(here):
    values = "precision={mode: bf16-pure, rounding: kahan},fp32"
    kahan = "precision-mode-bf16-pure-rounding-kahan"
    assert ids("small.yaml", values) == [kahan, "precision-fp32"]
    assert ids("small.yaml", f"{values},bf16", "seed=0") == [
        f"{kahan}_seed-0",
        "precision-fp32_seed-0",
        "precision-bf16_seed-0",
    ]
    assert ids("small.yaml") == ["run"]
    assert ids("small.yaml", "precision=bf16", max_steps=5) == ["precision-bf16_train.stop_at_step-5"]


def test_ids_that_would_collide_or_are_long_have_a_hash(here):
    alike = ids("small.yaml", "data.noise=1.0", "name=a-b,a_b", "model.hidden=[1, 2],[1,2,2]")
    assert len(set(alike)) == 4
    long = ids("small.yaml", "model.hidden=[" + ",".join(["16"] * 30) + "],[" + ",".join(["16"] * 31) + "]")
    assert len(set(long)) == 2
    assert all(len(run_id) <= 70 for run_id in long)
    Path("other").mkdir()
    Path("other/small.yaml").write_text(Path("small.yaml").read_text() + "seed: 5\n")
    folders = {run.run_dir for run in plan("small.yaml", "other/small.yaml", "precision=bf16").runs}
    assert len(folders) == 2


def test_zip_takes_lists_together(here):
    assert ids("small.yaml", "precision=fp32,bf16", "optimizer.lr=0.1,0.2", "seed=3", zipped=True) == [
        "precision-fp32_optimizer.lr-0.1_seed-3",
        "precision-bf16_optimizer.lr-0.2_seed-3",
    ]
    with pytest.raises(
        ConfigError, match="--zip: zip needs lists of one length, and precision has 2, seed has 3 values"
    ):
        plan("small.yaml", "precision=fp32,bf16", "seed=0..2", zipped=True)


def test_every_problem_is_named_once_by_its_combination(here):
    with pytest.raises(ConfigError, match=r".") as error:
        plan("small.yaml", "precision=fp32,fp61", "seed=0,1", "optimizer.lrr=3")
    everywhere, here_only = error.value.problems
    assert everywhere == "override 'optimizer.lrr=3': optimizer.lrr: unknown key (did you mean 'lr'?)"
    assert here_only.startswith("precision=fp61 seed=0 (and 1 more): override 'precision=fp61': precision.mode: 'fp61'")
    with pytest.raises(ConfigError, match=r".") as error:
        plan("nowhere.yaml", "precision=fp32,,bf16", "seed=4..1")
    assert len(error.value.problems) == 3
    with pytest.raises(ConfigError, match="seed is given more than once; list its values as seed=a,b"):
        plan("small.yaml", "seed=1", "seed=2")
    with pytest.raises(ConfigError, match="1,000,000 combinations; a sweep may have at most 10,000"):
        plan("small.yaml", "seed=0..999", "data.batch_size=1..1000")


def test_equal_runs_run_once_and_it_is_said(here):
    found = plan("small.yaml", "seed=0,0,1")
    assert ([run.label for run in found.runs], [run.number for run in found.runs]) == (["seed=0", "seed=1"], [1, 2])
    assert found.notices == ("seed=0 is the same run as seed=0: it runs once",)


FILE = """\
config: small.yaml
overrides: [data.batch_size=4]
variants:
  fp32: [precision=fp32]
  kahan: [precision=bf16-pure, precision.rounding=kahan]
seeds: 2
"""


def test_a_sweep_file(here):
    Path("sub").mkdir()
    Path("sub/small.yaml").write_text(Path("small.yaml").read_text())
    Path("sub/sweep.yaml").write_text(FILE)
    found = plan("sub/sweep.yaml").runs
    assert [run.run_id for run in found] == ["fp32_seed-0", "fp32_seed-1", "kahan_seed-0", "kahan_seed-1"]
    assert found[3].label == "kahan seed=1"
    assert found[3].config_path == Path("sub/small.yaml")
    assert found[3].config.precision.rounding == "kahan"
    assert found[3].config.data.batch_size == 4
    changed = plan("sub/sweep.yaml", "seed=7", "precision.backend=emulated").runs
    assert [run.run_id for run in changed] == [f"{v}_seed-7_precision.backend-emulated" for v in ("fp32", "kahan")]


EXAMPLES = re.findall(
    r"^```text\n(# .*?sweep.yaml.*?)^```", (ROOT / "docs/sweep.md").read_text(), re.DOTALL | re.MULTILINE
)


def test_the_page_s_example(here):
    (text,) = EXAMPLES
    Path("configs").mkdir()
    Path("configs/small.yaml").write_text(Path("small.yaml").read_text())
    Path("sweep.yaml").write_text(text.replace("../../configs/mlp.yaml", "configs/small.yaml"))
    found = plan("sweep.yaml")
    assert (len(found.runs), found.notices) == (48, ())


def test_grid_and_zip_of_a_sweep_file(here):
    Path("sweep.yaml").write_text(
        "configs: [small.yaml, other.yaml]\n"
        "grid: {precision: [fp32, {mode: bf16-pure, rounding: kahan}]}\n"
        "zip: {optimizer.lr: [1e-3, 1e-2], data.batch_size: [4, 8]}\n"
    )
    Path("other.yaml").write_text(Path("small.yaml").read_text())
    found = plan("sweep.yaml").runs
    assert len(found) == 8
    assert found[0].label == "small optimizer.lr=0.001 data.batch_size=4 precision=fp32"
    assert len(plan("sweep.yaml", "precision=fp16").runs) == 4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "config: small.yaml\nvariant: {a: []}\ngrid: {}\n",
            "sweep.yaml:2: variant: unknown key (did you mean 'variants'?)",
        ),
        ("grid: {seed: [0]}\n", "give exactly one of config and configs"),
        ("config: small.yaml\ngrid: {seed: 3}\n", "sweep.yaml:2: grid.seed: must be a list, not 3"),
        ("config: small.yaml\ngrid: {seed: []}\n", "sweep.yaml:2: grid.seed: must have at least 1 items, not []"),
        ("config: small.yaml\nzip: {seed: [1, 2], train.epochs: [1]}\n", "seed has 2, train.epochs has 1 values"),
        ("config: small.yaml\nseeds: 2\ngrid: {seed: [1]}\n", "give seeds, or values of seed in grid or zip, not both"),
        (
            "config: small.yaml\nmodel: mlp\n",
            "sweep.yaml:2: model: unknown key; a file of this kind has config, configs",
        ),
        ("config: small.yaml\nname: x\n", "sweep.yaml:2: name: unknown key"),
        ("config: small.yaml\nvariants: {'a b': []}\n", "a b"),
        ("config: nowhere.yaml\n", "nowhere.yaml: does not exist"),
    ],
)
def test_a_wrong_sweep_file_is_a_line(here, text, said):
    Path("sweep.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r".") as error:
        plan("sweep.yaml")
    assert said in str(error.value)


def test_what_a_folder_holds(here):
    runs = plan("small.yaml", "precision=fp32", "seed=0..6").runs
    statuses = ["ok", "diverged", "preempted", None, None]
    for run, status in zip(runs[1:], statuses, strict=False):
        run.run_dir.mkdir(parents=True)
        (run.run_dir / "config.yaml").write_text(to_yaml(run.config))
        if status:
            (run.run_dir / "result.json").write_text(indented({"status": status, "exit_code": 3, "error": None}))
    runs[6].run_dir.mkdir()
    (runs[6].run_dir / "config.yaml").touch()  # killed as it began
    with hold(runs[5].run_dir):
        found = look(runs)
        rows = make_rows(runs, found)
        kinds = [each.kind for each in found]
        assert kinds == ["new", "finished", "finished", "to resume", "to resume", "running", "to resume"]
        assert [each.status for each in found][1:5] == ["ok", "diverged", "preempted", "killed"]
        states = ["waiting", "ok", "diverged", "waiting", "waiting", "in_use", "waiting"]
        assert [row.state for row in rows] == states
        assert rows[5].outcome.exit_code == 2
        assert [each.kind for each in look(runs, retry_failed=True)][1:3] == ["finished", "to resume"]


def test_folders_of_other_runs_are_all_refused(here):
    runs = plan("small.yaml", "seed=0,1").runs
    for run in runs:
        run.run_dir.mkdir(parents=True)
        (run.run_dir / "config.yaml").write_text(to_yaml(run.config).replace("max_steps: 12", "max_steps: 13"))
    with pytest.raises(ConfigError, match=r".") as error:
        look(runs)
    assert error.value.problems == [
        f"seed={seed}: runs/small/seed-{seed} holds a run of another config (train.max_steps was 13, is 12); remove "
        "it, or choose another --output-dir"
        for seed in (0, 1)
    ]


@pytest.mark.parametrize(("output_dir", "said"), [("small.yaml", "Not a directory"), ("x" * 300, "File name too long")])
def test_an_output_folder_that_cannot_be_holds_no_run(here, output_dir, said):
    request = read_request(["small.yaml", "seed=0,1"])
    runs = make_plan(request.configs, request.axes, output_dir=Path(output_dir)).runs
    assert [found.kind for found in look(runs)] == ["new", "new"]
    with pytest.raises(CapabilityError, match=f"cannot write {output_dir}/small/seed-0: {said}"):
        Child(runs[0], {})


def test_a_config_recorded_in_other_words_is_the_same(here):
    run = plan("small.yaml").runs[0]
    run.run_dir.mkdir(parents=True)
    (run.run_dir / "config.yaml").write_text(
        "name: small  # an older version wrote no defaults\n" + Path("small.yaml").read_text()
    )
    assert [each.kind for each in look([run])] == ["to resume"]
