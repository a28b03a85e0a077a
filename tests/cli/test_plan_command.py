"""`mptrain plan`: its JSON is plan.json, its table fits the terminal, phases are shown in turn."""

import os
import shutil

import pytest

from mptrain.cli.app import run as mptrain
from mptrain.cli.plan_command import _table
from mptrain.telemetry.human import size
from tests.cli.small_run import strict


def _module(name: str, reason: str) -> dict:
    return {
        "name": name,
        "type": "NonDynamicallyQuantizableLinear",
        "parameters": 1_234_567,
        "stored": "fp32",
        "computed": "bf16",
        "gradient": "fp32",
        "formats": None,
        "reason": reason,
    }


def _modules() -> list[dict]:
    reasons = ["the mode's own", "a norm", "too small to pay (in 768, out 768; on an H100 FP8 loses where in <= 4096)"]
    return [
        _module(f"encoder.layers.encoder_layer_{i}.self_attention.{i}", reasons[i % len(reasons)]) for i in range(200)
    ]


def test_its_json_is_what_a_run_records(here, capsys):
    assert mptrain(["plan", "small.yaml", "precision=bf16-master", "--json"]) == 0
    printed = strict(capsys.readouterr().out)
    assert mptrain(["run", "small.yaml", "precision=bf16-master", "--run-id", "a", "--quiet"]) == 0
    memory = printed["memory"]
    assert memory.pop("total_with_activations") == memory["total"] + memory.pop("activations")
    assert printed == strict((here / "runs" / "small" / "a" / "plan.json").read_text())


def test_a_pipe_gets_one_line_per_module_whole():
    head, *lines = _table(_modules(), None).splitlines()
    assert head.split() == ["module", "type", "parameters", "stored", "computed", "gradient", "reason"]
    assert len(lines) == 200
    assert lines[7].startswith("encoder.layers.encoder_layer_7.self_attention.7 ")
    assert lines[8].endswith("in <= 4096)")


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160])
def test_a_table_fits_its_terminal_and_keeps_what_tells_modules_apart(width):
    lines = _table(_modules(), width).splitlines()
    assert max(map(len, lines)) <= width
    text = " ".join(" ".join(lines).split())
    for index in range(200):
        assert f"tention.{index} " in text
    assert text.count("too small to pay") == 66


def test_every_phase_has_its_heading(here, capsys):
    phases = "precision.phases=[{until: 0.5, mode: bf16}, {until: 1.0, mode: fp16-pure, rounding: kahan}]"
    assert mptrain(["plan", "small.yaml", phases]) == 0
    out = capsys.readouterr().out
    assert "bf16: weights fp32" in out
    assert "until step 12" in out
    assert "fp16-pure: weights fp16 rounded kahan" in out
    assert out.count("memory held between steps") == 2
    assert "compensation" in out


def test_small_sizes_are_not_rounded_to_nothing(here, capsys):
    assert mptrain(["plan", "small.yaml", "precision=fp32"]) == 0
    held, activations = [line for line in capsys.readouterr().out.splitlines() if line.startswith("memory")]
    assert "weights 976 B" in held
    # Of 8 samples: inputs, what the norm took (and its means and deviations), what ReLU gave, logits after softmax.
    saved = 4 * (8 * 8 + 8 * 16 + 2 * 16 + 8 * 16 + 8 * 4) + 8 * 8 + 4
    assert f"memory of the activations of 8 samples: {size(saved)}; total" in activations


def test_columns_are_those_of_the_terminal(here, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "get_terminal_size", lambda *_, **__: os.terminal_size((60, 24)))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert mptrain(["plan", "small.yaml", "precision=fp8", "precision.backend=emulated"]) == 0
    table = [
        line for line in capsys.readouterr().out.splitlines() if not line.startswith(("memory", "fp8 emulated", "note"))
    ]
    assert max(map(len, table)) <= 60
    assert "parameters" not in table[0]


def test_activations_are_those_of_what_is_computed_on_at_a_time(here, capsys):
    def activations(size: str) -> int:
        assert mptrain(["plan", "small.yaml", "--json", f"train.micro_batch={size}"]) == 0
        return strict(capsys.readouterr().out)["memory"]["activations"]

    assert activations("4") * 2 == pytest.approx(activations("null"), rel=0.1)
    assert activations("auto") == activations("null")
    assert mptrain(["plan", "small.yaml", "train.micro_batch=4"]) == 0
    assert "memory of the activations of 4 samples: " in capsys.readouterr().out
