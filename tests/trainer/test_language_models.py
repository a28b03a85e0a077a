"""A GPT through the real trainer: every precision learns, no step reads the device, a run resumed ends the same."""

import pytest
import torch

from mptrain.checkpoint import CheckpointStore, load
from mptrain.trainer.memory_plan import held_bytes
from tests.trainer.runs import PRECISIONS, build, precision_id, same, trainer, weights
from tests.trainer.test_host_reads import CountHostReads

TEXT = "the quick brown fox jumps over the lazy dog; " * 60


@pytest.fixture
def language(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    return {
        "model": {"name": "gpt", "width": 32, "depth": 1, "heads": 2, "dropout": 0.1},
        "data": {"name": "text_files", "train": str(tmp_path / "text.txt"), "context": 16, "batch_size": 8},
        "task": "language_modelling",
        "optimizer": {"name": "adamw", "lr": 0.01, "eps": 1e-4},  # 1e-8 is 0 in pure FP16
        "train": {"max_steps": 30, "clip_norm": 1.0},
    }


@pytest.mark.parametrize("precision", PRECISIONS, ids=precision_id)
def test_every_precision_learns(language, precision):
    made = trainer({**language, "precision": precision})
    made.fit()
    assert made.metrics["loss"] < 3.2  # 5.5 untrained; uniform over the text's characters is 3.3
    assert made.run.parts.model.head.weight is made.run.parts.model.tokens.weight


@pytest.mark.parametrize("mode", ["fp32", "bf16"])
def test_no_step_reads_the_device(language, mode):
    made = trainer({**language, "precision": {"mode": mode}})
    counter, original, reads_at = CountHostReads(), made._attempt, {}

    def counted(window):
        original(window)
        reads_at[made._launched] = counter.reads

    made._attempt = counted
    with counter:
        made.fit()
    assert reads_at[15] == reads_at[5]  # within an epoch: where one begins, the loader draws a seed on the host


def test_a_run_cut_short_goes_on_with_the_same_windows(language, tmp_path):
    changes = {**language, "ema": {"decay": 0.9}}
    whole = trainer(changes)
    whole.fit()
    store = CheckpointStore(tmp_path / "checkpoints")
    first = trainer({**changes, "train": {"max_steps": 30, "clip_norm": 1.0, "stop_at_step": 17}}, store)
    first.fit()
    second = trainer(changes)
    second.restore(load(store.latest().path, device=torch.device("cpu")))
    second.fit()
    assert same(weights(second.run), weights(whole.run))
    assert second.metrics == whole.metrics


def test_norms_and_biases_do_not_decay(language):
    made = build({**language, "optimizer": {"name": "adamw", "weight_decay": 0.1, "decay_norm_and_bias": False}})
    decays = {
        id(parameter): group["weight_decay"]
        for group in made.parts.optimizer.param_groups
        for parameter in group["params"]
    }
    assert {n: decays[id(p)] for n, p in made.parts.model.named_parameters()} == {
        name: 0.1 if parameter.ndim == 2 else 0.0 for name, parameter in made.parts.model.named_parameters()
    }


@pytest.mark.parametrize("precision", PRECISIONS, ids=precision_id)
def test_a_tied_weight_is_held_saved_averaged_and_stepped_once(language, precision, tmp_path):
    changes = {**language, "train": {"max_steps": 3}, "ema": 0.9, "precision": precision}
    store = CheckpointStore(tmp_path / "checkpoints")
    made = trainer(changes, store)
    made.fit()
    planned, held = made.run.memory.as_dict(), held_bytes(made.run.parts).as_dict()
    assert held == pytest.approx(planned, rel=0.02)
    stepped = [p for group in made.run.parts.optimizer.param_groups for p in group["params"]]
    assert len(stepped) == len({id(p) for p in stepped}) == len(list(made.run.parts.model.parameters()))
    saved = load(store.latest().path, device=torch.device("cpu"))
    for part in (saved["model"], saved["ema"]):
        assert part["head.weight"].data_ptr() == part["tokens.weight"].data_ptr()
    restored = trainer(changes)
    restored.restore(saved)
    assert restored.run.parts.model.head.weight is restored.run.parts.model.tokens.weight
    assert same(weights(restored.run), weights(made.run))
