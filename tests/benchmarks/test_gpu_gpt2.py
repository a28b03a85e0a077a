"""The GPT-2 benchmark where there is no GPU: one line; its config is valid, its loop trains, its figures are right."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_gpt2
from mptrain.catalog import load_config

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU, and the benchmark would run")
def test_without_a_gpu_it_is_one_line():
    command = [sys.executable, "-m", "benchmarks.gpu_gpt2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr == "error: no GPU that torch can use; this benchmark needs one\n"


def test_its_config_is_valid(tmp_path):
    path = tmp_path / "gpt2.yaml"
    path.write_text(gpu_gpt2.config_text(tmp_path / "tokens.bin", 16, 60))
    config = load_config(path).config
    assert (config.model.name, config.model.num_classes, config.data.context) == ("gpt2-124m", 50304, 1024)
    assert (config.data.batch_size, config.train.max_steps) == (16, 60)


def test_the_plain_loop_trains_the_same_network(tmp_path, monkeypatch):
    for name, value in {"MODEL": "gpt", "CONTEXT": 16, "WARM_UP": 1}.items():
        monkeypatch.setattr(gpu_gpt2, name, value)
    monkeypatch.setitem(sys.modules["mptrain.models.language.entries"].GPT2_SIZES, "gpt", (32, 1, 2))
    gpu_gpt2.write_tokens(tmp_path / "tokens.bin", 1000)
    assert gpu_gpt2.plain_loop(tmp_path / "tokens.bin", "cpu", 2, 3, compiled=False) > 0


def test_figures():
    assert gpu_gpt2.FLOPS_PER_TOKEN == 6 * gpu_gpt2.PARAMETERS + 12 * 12 * 768 * 1024
    peak = 989e12 / gpu_gpt2.FLOPS_PER_TOKEN
    assert gpu_gpt2.figures([peak / 2, peak / 4, peak], "NVIDIA H200, torch 2.14").endswith("| 50.0%")
    assert gpu_gpt2.figures([100.0], "NVIDIA Other, torch 2.14") == "100 (100..100) | n/a"
    assert gpu_gpt2.figures([100.0, "out of memory"], "NVIDIA H200") == "out of memory | n/a"
