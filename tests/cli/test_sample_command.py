"""`mptrain sample` through the real command line: text of a trained model, the same by the same seed; refusals."""

import io
import math
import sys
from pathlib import Path

import pytest
import torch

from mptrain.cli.app import run as mptrain
from mptrain.errors import DivergedError
from mptrain.trainer.sampling import SampleOptions, choose
from tests.cli.small_run import result_of, strict

CYCLE = "abcdefghij"
CONFIG = """\
model: {name: gpt, width: 32, depth: 1, heads: 2}
data: {name: text_files, train: text.txt, context: 8, batch_size: 16}
task: language_modelling
optimizer: {name: adamw, lr: 0.01}
schedule: constant
train: {max_steps: 60}
device: cpu
"""


@pytest.fixture
def trained(here, capsys):
    """A run that has learned a cycle of ten letters, in the current folder."""
    Path("text.txt").write_text(CYCLE * 200)
    Path("small.yaml").write_text(CONFIG)
    assert mptrain(["run", "small.yaml", "ema=0.9", "precision=bf16", "--run-id", "a", "--quiet"]) == 0
    capsys.readouterr()
    return "runs/small/a"


def sampled(capsys, *arguments):
    assert mptrain(["sample", *arguments, "--json"]) == 0
    return strict(capsys.readouterr().out)


def test_it_goes_on_with_what_it_has_learned(trained, capsys):
    """The prompt is shorter than the context of 8, the text much longer: every window must be the right one."""
    found = sampled(capsys, trained, "--prompt", "cde", "--tokens", "50", "--temperature", "0")
    assert found["text"] == (CYCLE * 6)[5:55]
    assert (found["tokens"], found["precision"], found["applied_steps"]) == (50, "bf16", 60)
    longer = sampled(capsys, trained, "--prompt", CYCLE * 2 + "abc", "--tokens", "5", "--temperature", "0")
    assert longer["text"] == "defgh"


def test_plain_output_is_prompt_and_text(trained, capsys):
    assert mptrain(["sample", trained, "--prompt", "ab", "--tokens", "3", "--temperature", "0", "--best"]) == 0
    assert capsys.readouterr().out == "abcde\n"


def test_the_seed_decides(trained, capsys):
    hot = [trained, "--tokens", "40", "--temperature", "3"]
    first = sampled(capsys, *hot, "--seed", "1")["text"]
    assert sampled(capsys, *hot, "--seed", "1")["text"] == first
    assert sampled(capsys, *hot, "--seed", "2")["text"] != first
    assert sampled(capsys, *hot, "--top-k", "1")["text"] == sampled(capsys, *hot[:3], "--temperature", "0")["text"]


def test_tokens_per_s_is_windows_times_context(trained):
    result = result_of("a")
    assert result["tokens_per_s"] == pytest.approx(8 * result["samples_per_s"])


def test_a_padded_vocabulary_is_never_written(here, capsys):
    Path("text.txt").write_text(CYCLE * 50)
    Path("small.yaml").write_text(CONFIG)
    padded = ["model.num_classes=2000", "train.max_steps=1", "--run-id", "a", "--quiet"]
    assert mptrain(["run", "small.yaml", *padded]) == 0
    capsys.readouterr()
    # Untrained: most of the probability is with the ids that stand for nothing.
    assert len(sampled(capsys, "runs/small/a", "--tokens", "30", "--temperature", "5")["text"].encode()) >= 30


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--prompt", ""], "--prompt: it has no token"),
        (["--prompt", "\udcff"], "--prompt: '\\udcff' is not valid UTF-8"),
        (["--temperature", "nan"], "--temperature"),
        (["--temperature", "-1"], "--temperature"),
        (["--tokens", "0"], "--tokens"),
        (["--top-k", "0"], "--top-k"),
        (["--seed", "-1"], "--seed"),
        (["--seed", str(2**64)], "--seed"),
    ],
)
def test_what_cannot_be_is_refused(trained, capsys, arguments, text):
    assert mptrain(["sample", trained, *arguments]) == 2
    captured = capsys.readouterr()
    assert text in captured.err
    assert captured.out == ""


def test_text_that_standard_output_has_no_characters_for(trained, capsys, monkeypatch):
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", ascii_only)
    assert mptrain(["sample", trained, "--prompt", "é", "--tokens", "1"]) == 4
    assert (
        "error: standard output is ascii, which cannot write '\\xe9'; set PYTHONIOENCODING" in capsys.readouterr().err
    )


def test_a_run_that_writes_no_text_is_refused(here, capsys):
    assert mptrain(["run", "small.yaml", "--run-id", "a", "--quiet"]) == 0
    capsys.readouterr()
    assert mptrain(["sample", "runs/small/a"]) == 2
    assert "its model is for classification, not for language modelling" in capsys.readouterr().err
    assert mptrain(["sample", "runs/small/b"]) == 6


def test_tokens_without_a_tokenizer_are_refused(here, capsys):
    import numpy as np

    np.arange(500, dtype="<u2").tofile("tokens.bin")
    data = "{name: token_files, train: tokens.bin, test: tokens.bin, vocab_size: 500, context: 8, batch_size: 16}"
    Path("small.yaml").write_text(
        CONFIG.replace("{name: text_files, train: text.txt, context: 8, batch_size: 16}", data)
    )
    assert mptrain(["run", "small.yaml", "train.max_steps=1", "--run-id", "a", "--quiet"]) == 0
    capsys.readouterr()
    assert mptrain(["sample", "runs/small/a"]) == 2
    assert "name the tokenizer.json that made them" in capsys.readouterr().err


def test_an_override_that_the_weights_do_not_fit_is_refused(trained, capsys):
    assert mptrain(["sample", trained, "model.width=16"]) == 2
    assert "leave out the override that changes the model" in capsys.readouterr().err


def test_outputs_that_are_not_finite_say_that_training_diverged():
    with pytest.raises(DivergedError, match="its training diverged"):
        choose(torch.tensor([0.0, math.nan]), SampleOptions(), torch.Generator())


def test_choices_follow_the_probabilities():
    logits = torch.tensor([0.0, 1.0, 2.0, -50.0])

    def shares(options):
        generator = torch.Generator().manual_seed(0)
        drawn = torch.tensor([choose(logits, options, generator) for _ in range(4000)])
        return drawn.bincount(minlength=4) / 4000

    for temperature in (0.5, 1.0, 2.0):
        expected = (logits / temperature).softmax(0)
        torch.testing.assert_close(shares(SampleOptions(temperature=temperature)), expected, atol=0.03, rtol=0)
    two = torch.tensor([0.0, 1.0, math.e, 0.0]) / (1 + math.e)
    torch.testing.assert_close(shares(SampleOptions(temperature=1.0, top_k=2)), two, atol=0.03, rtol=0)
    assert shares(SampleOptions(temperature=0))[2] == 1
    assert shares(SampleOptions(temperature=1e-300))[2] == 1
