"""The text models through the real trainer: precisions learn, and no step reads the device."""

import pytest

from tests.trainer.runs import PRECISIONS, precision_id, trainer
from tests.trainer.test_host_reads import reads_in_50_steps

TRANSLATION = {
    "model": {"name": "seq2seq", "width": 32, "depth": 1, "heads": 2, "hidden": 64, "dropout": 0.1},
    "data": {"name": "cmudict", "num_train": 1024, "num_test": 64, "batch_size": 16},
    "task": {"name": "translation", "metric": "error_rate", "label_smoothing": 0.0},
    "optimizer": {"name": "adamw", "lr": 0.01, "eps": 1e-4},  # 1e-8 is 0 in pure FP16
    "train": {"max_steps": 40, "clip_norm": 1.0},
}


@pytest.fixture
def genre(tmp_path):
    rows = "".join(f"{word} {word} {other},{word}\n" for word in ("war", "love") for other in "abcdefgh")
    (tmp_path / "t.csv").write_text("text,label\n" + rows)
    path = str(tmp_path / "t.csv")
    return {
        "model": {"name": "text_encoder", "width": 16, "depth": 1, "heads": 2, "hidden": 32, "dropout": 0.1},
        "data": {
            "name": "text_table", "train": path, "test": path, "vocab_size": 270, "max_tokens": 16, "batch_size": 8,
        },
        "task": "classification",
        "optimizer": {"name": "adamw", "lr": 0.01, "eps": 1e-4},
    }  # fmt: skip


@pytest.mark.parametrize("precision", PRECISIONS, ids=precision_id)
def test_every_precision_learns_to_translate(precision):
    made = trainer({**TRANSLATION, "precision": precision})
    made.fit()
    assert made.metrics["loss"] < 3.15  # how often each phoneme occurs gives 3.27, and no knowledge 3.7
    assert made.run.parts.model.head.weight is made.run.parts.model.target.tokens.weight


@pytest.mark.parametrize("mode", ["fp32", "bf16", "fp16", "fp8"])
def test_a_few_precisions_learn_to_classify(genre, mode):
    made = trainer({**genre, "train": {"max_steps": 40}, "precision": {"mode": mode, "backend": "emulated"}})
    made.fit()
    assert made.metrics["accuracy"] == 1.0


@pytest.mark.parametrize("mode", ["fp32", "bf16"])
def test_no_step_reads_the_device(mode):
    data = {**TRANSLATION["data"], "num_train": 1024, "batch_size": 8}
    made = {**TRANSLATION, "data": data, "train": {"max_steps": 60, "clip_norm": 1.0}}
    assert reads_in_50_steps({**made, "precision": {"mode": mode}}) == 0
