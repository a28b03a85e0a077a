"""`mptrain bench` on small real models: what it times, compares and explains, and how it ends."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from mptrain.bench import stand as stands
from mptrain.bench.loader import loader_rate
from mptrain.bench.measure import bench
from mptrain.bench.modes import choose
from mptrain.bench.shares import kind_of, measure_shares
from mptrain.bench.stand import Stand
from mptrain.bench.table import render
from mptrain.bench.timing import Settings, run_rounds, speed_up, time_steps
from mptrain.cli.app import run as mptrain
from mptrain.config.schema import DataConfig
from mptrain.errors import ConfigError
from mptrain.interfaces import DataSpec, DataSplits, Streamed
from mptrain.precision.modes import MODES
from mptrain.registry import DATASETS
from mptrain.telemetry.files import strict_json
from tests.cli.small_run import strict
from tests.trainer.runs import config, registered

CPU = torch.device("cpu")
QUICK = Settings(repeats=3, seconds=0.5, steps=2)


def small(changes=None):
    made = config(changes)
    return Stand(made), made


def quiet(text):
    del text


@pytest.fixture(autouse=True, scope="module")
def _short_measurements():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mptrain.bench.rates._MEASURED_S", 0.01)
        patch.setattr("mptrain.bench.rates._SIZES", {"cpu": (128, 256)})
        patch.setattr("mptrain.bench.rates._CONVOLUTIONS", {"cpu": (2, 32, 10)})
        patch.setattr("mptrain.bench.shares._PASS_S", 0.1)
        patch.setattr("mptrain.bench.loader._SECONDS", 0.1)
        yield


@pytest.fixture(scope="module")
def measured():
    """One whole bench of an MLP, FP32 and BF16 natively, MXFP8 and TF32 as emulations would be."""
    torch.set_num_threads(1)
    return bench(config(), "fp32,bf16,mxfp8", QUICK, max_batch=True, say=quiet)


def test_the_result_is_strict_json_with_every_round_of_every_mode(measured):
    assert strict(json.dumps(strict_json(measured), allow_nan=False)) == json.loads(json.dumps(measured))
    assert (measured["status"], measured["exit_code"]) == ("ok", 0)
    fp32, bf16, _ = measured["modes"]
    for mode in (fp32, bf16):
        assert [(r["round"], r["steps"], r["warmup_steps"]) for r in mode["rounds"]] == [
            (1, 2, 3),
            (2, 2, 3),
            (3, 2, 3),
        ]
        step = mode["step_time_ms"]
        assert 0 < step["p10_ms"] <= step["median_ms"] <= step["p90_ms"]
        assert mode["samples_per_s"] == pytest.approx(8e3 / step["median_ms"])
        assert mode["tokens_per_s"] is None
        held = mode["memory"]["held"]
        assert mode["memory"]["peak_bytes"] == held["total"] + mode["memory"]["activations"] > 0
        assert mode["largest_micro_batch"]["samples"] > 1000
    assert fp32["speed_up"] is None
    medians = [[r["median_ms"] for r in mode["rounds"]] for mode in (fp32, bf16)]
    assert bf16["speed_up"]["rounds"] == pytest.approx([a / b for a, b in zip(*medians, strict=True)])
    assert (fp32["compute_format"], bf16["compute_format"]) == ("fp32", "bf16")


def test_a_mode_that_the_device_cannot_run_is_a_row_with_the_reason(measured):
    mode = measured["modes"][2]
    assert (mode["status"], mode["rounds"], mode["samples_per_s"]) == ("env_error", [], None)
    assert "this is a CPU" in mode["error"]


def test_rounds_are_interleaved_and_begin_with_another_mode_each(measured):
    assert measured["order"] == [["fp32", "bf16", "mxfp8"], ["bf16", "fp32"], ["fp32", "bf16"]]


def test_utilisation_is_of_the_rate_measured_for_the_format(measured):
    for mode in measured["modes"][:2]:
        rate = measured["rates"]["flops_per_s"][mode["compute_format"]]
        flops_per_s = measured["products"]["flops_per_step"] / mode["step_time_ms"]["median_ms"] * 1e3
        assert mode["mfu"] == pytest.approx(flops_per_s / rate)


def test_shares_of_the_step_sum_to_one(measured):
    for mode in measured["modes"][:2]:
        shares = mode["shares"]
        assert shares["forward"] + shares["backward"] + shares["optimizer"] == pytest.approx(1)
        assert min(shares["forward"], shares["backward"], shares["optimizer"]) > 0
        assert 0 < shares["products"] <= 1
    fp32, bf16 = (mode["shares"] for mode in measured["modes"][:2])
    assert fp32["casts"] == 0 < bf16["casts"]


def test_the_text_has_80_columns_and_no_escapes(measured):
    text = render(measured)
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text
    for words in ("bf16", "speed-up", "mxfp8", "env_error", "loader", "interleaved rounds"):
        assert words in text


def test_the_learning_rate_leaves_the_weights_where_they_were():
    stand, made = small()
    with stand.built(choose(made, CPU, "fp32")[0][0]) as built:
        before = [p.detach().clone() for p in built.run.parts.model.parameters()]
        for _ in range(20):
            built()
        for old, new in zip(before, built.run.parts.model.parameters(), strict=True):
            assert torch.allclose(old, new, atol=1e-9)
        assert built.skipped() == 0


def test_skipped_steps_are_counted():
    made = config({"precision": {"mode": "fp16", "loss_scale": {"init_scale": 2.0**24, "growth_interval": 1}}})
    stand = Stand(made)
    found, _ = run_rounds(stand, choose(made, CPU, "fp32,fp16")[0], Settings(2, 1, 6), quiet)
    skipped = sum(each.skipped for each in found[1].rounds)
    assert 0 < skipped < 12
    assert sum(each.skipped for each in found[0].rounds) == 0


def test_the_default_is_what_runs_natively_and_all_emulates_the_rest():
    made = config()
    default, left_out = choose(made, CPU, None)
    assert default[0].mode == "fp32"
    assert {c.mode for c in default} | {each.mode for each in left_out} <= set(MODES)
    assert not any(c.emulated or c.mode == "fp64" for c in default)
    everything, _ = choose(made, CPU, "all")
    assert {c.mode for c in everything} == set(MODES)
    assert {c.mode for c in everything if c.emulated} == {"tf32", "fp8", "mxfp8", "nvfp4"}
    assert "fp8 (emulated)" in [c.name for c in everything]
    with pytest.raises(ConfigError, match="fp61") as caught:
        choose(made, CPU, "fp61,bf17")
    assert len(caught.value.problems) == 2


def test_the_baseline_is_fp32_whatever_the_config_overrides():
    made = config({"precision": {"mode": "bf16", "overrides": [{"match": "*", "dtype": "bf16"}]}})
    stand = Stand(made)
    fp32, bf16 = choose(made, CPU, "fp32,bf16")[0]
    assert bf16.config.precision.overrides
    with stand.built(fp32) as built:
        assert built.run.in_force.overrides == 0


def test_an_emulated_mode_is_timed_and_never_compared():
    stand, made = small()
    contestants = [c for c in choose(made, CPU, "all")[0] if c.mode in ("fp32", "fp8")]
    found, _ = run_rounds(stand, contestants, QUICK, quiet)
    assert len(found[1].rounds) == 3
    assert speed_up(found[1], found) is None


def test_a_mode_that_runs_out_of_memory_is_a_row_and_leaves_the_others_alone(monkeypatch):
    made = config()
    stand = Stand(made)
    contestants, _ = choose(made, CPU, "fp32,bf16")
    real = stands.enter_phase

    def without_room(run, steps_done):
        if run.config.precision.mode == "bf16":
            raise torch.OutOfMemoryError("planted")
        return real(run, steps_done)

    monkeypatch.setattr(stands, "enter_phase", without_room)
    found, order = run_rounds(stand, contestants, QUICK, quiet)
    assert (found[1].problem.status, found[1].rounds, len(found[0].rounds)) == ("oom", [], 3)
    assert order[1] == ["fp32"]
    assert "planted" in str(found[1].problem)


def test_where_no_mode_has_room_the_code_is_that_of_memory(monkeypatch):
    def without_room(run, steps_done):
        raise torch.OutOfMemoryError("planted")

    monkeypatch.setattr(stands, "enter_phase", without_room)
    found = bench(config(), "fp32,bf16", QUICK, max_batch=True, say=quiet)
    assert (found["status"], found["exit_code"]) == ("oom", 5)
    assert [mode["status"] for mode in found["modes"]] == ["oom", "oom"]
    assert "no mode could be timed" in found["error"]
    assert max(map(len, render(found).splitlines())) <= 80


def test_steps_end_at_their_time():
    took = time_steps(lambda: time.sleep(0.02), 1000, CPU, 0.1)
    assert 1 <= len(took) < 100
    assert len(time_steps(lambda: None, 5, CPU)) == 5


def test_copies_between_formats_are_casts_and_others_are_not():
    aten, wide, low = torch.ops.aten, torch.zeros(2), torch.zeros(2, dtype=torch.bfloat16)
    assert kind_of(aten._to_copy.default, (wide,), {"dtype": torch.bfloat16}) == "casts"
    assert kind_of(aten._to_copy.default, (wide,), {"dtype": torch.float32}) is None
    assert kind_of(aten.copy_.default, (wide, low), {}) == "casts"
    assert kind_of(aten.copy_.default, (wide, wide), {}) is None
    assert kind_of(aten._foreach_copy_.default, ([wide], [low]), {}) == "casts"
    assert kind_of(aten._to_copy.default, (torch.zeros(2, dtype=torch.int64),), {"dtype": torch.float32}) is None
    assert kind_of(aten.mm.default, (wide, wide), {}) == "products"


class CastingNet(nn.Module):
    """Converts a large tensor to and fro, in BF16's autocast only."""

    def __init__(self, outputs):
        super().__init__()
        self.layer, self.weight = nn.Linear(8, outputs), nn.Parameter(torch.zeros(400_000))

    def forward(self, x):
        y, extra = self.layer(x), self.weight
        if torch.is_autocast_enabled("cpu"):
            for _ in range(10):
                extra = extra.to(torch.bfloat16).to(torch.float32)
        return y + extra[:1]


def test_a_planted_slow_cast_is_named():
    with registered("casting", lambda config, spec: CastingNet(spec.num_outputs)):
        made = config({"model": {"name": "casting"}, "optimizer": {"name": "sgd", "lr": 0.1}})
        found = bench(made, "fp32,bf16", QUICK, max_batch=False, say=quiet)
    bf16 = found["modes"][1]
    assert bf16["shares"]["casts"] > 0.3
    assert bf16["reasons"][0]["kind"] == "casts"
    assert "conversions between formats take" in bf16["explanation"]
    assert bf16["largest_micro_batch"] is None


class Slow(torch.utils.data.Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, index):
        time.sleep(0.005)
        return torch.zeros(8), torch.tensor(index % 4)


def test_a_planted_slow_loader_is_named():
    def slow(config, seed):
        return DataSplits(DataSpec((8,), 4), Streamed(Slow()), Streamed(Slow()))

    DATASETS.register("slow", config=DataConfig, description="for tests")(slow)
    try:
        made = config({"data": {"name": "slow", "batch_size": 8}})
        rate = loader_rate(Stand(made).run)
        found = bench(made, "fp32", Settings(1, 0.2, 2), max_batch=False, say=quiet)
    finally:
        del DATASETS._entries["slow"]
    assert 10 < rate < 200
    assert found["loader"]["loader_bound"]
    assert "the loader sets the pace" in " ".join(render(found).split())
    assert any("too few to tell" in warning for warning in found["warnings"])


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"name": "resnet18", "stem": "small"}, "data": {"input_shape": [1, 8, 8], "batch_size": 2},
         "train": {"channels_last": True}},
        {"model": {"name": "gpt", "width": 16, "depth": 1, "heads": 2}, "task": "language_modelling",
         "data": {"name": "shakespeare", "context": 8, "batch_size": 2}},
        {"model": "linear", "data": {"name": "line", "w": [1.0], "b": 0.0, "noise": 0.1, "num_train": 64,
         "batch_size": 64}, "task": "regression"},
    ],
    ids=["resnet", "gpt", "linear"],
)  # fmt: skip
def test_other_models(changes):
    stand, made = small(changes)
    contestants, _ = choose(made, CPU, "fp32,bf16-master")
    found, _ = run_rounds(stand, contestants, Settings(2, 0.2, 1), quiet)
    assert [timed.problem for timed in found] == [None, None]
    shares = measure_shares(stand, contestants[1], 0.5)
    assert shares.forward + shares.backward + shares.optimizer == pytest.approx(1)


def test_the_command_prints_one_object_and_its_codes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SMALL)
    few = ["--repeats", "1", "--steps", "1", "--no-max-batch"]
    assert mptrain(["bench", "small.yaml", "--precisions", "fp32", *few, "--json"]) == 0
    captured = capsys.readouterr()
    assert strict(captured.out)["modes"][0]["name"] == "fp32"
    assert "round 1/1  fp32" in captured.err
    assert mptrain(["bench", "small.yaml", "--precisions", "fp61", "--json"]) == 2
    captured = capsys.readouterr()
    assert "error: --precisions: 'fp61'" in captured.err
    assert strict(captured.out)["exit_code"] == 2
    assert mptrain(["bench", "small.yaml", "device=cuda:7"]) == 4
    assert mptrain(["bench", "small.yaml", "model.hiden=[3]"]) == 2
    assert mptrain(["bench", "small.yaml", "--repeats", "0"]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [tmp_path / "small.yaml"]


def test_ctrl_c_leaves_at_once(tmp_path):
    (tmp_path / "small.yaml").write_text(SMALL)
    command = [sys.executable, "-m", "mptrain", "bench", "small.yaml", "--precisions", "fp32", "--seconds", "600"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert "building" in process.stderr.readline()
    assert "timing" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err


SMALL = """\
model: {name: mlp, hidden: [16]}
data: {name: synthetic, input_shape: [8], num_outputs: 4, num_train: 96, num_test: 50, batch_size: 8}
task: classification
optimizer: {name: adamw, lr: 0.01}
schedule: constant
train: {epochs: 2}
device: cpu
"""
