"""`train.micro_batch`: pieces give the whole batch's gradients, and memory that runs out costs nothing but time."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mptrain.catalog import load_config
from mptrain.checkpoint import CheckpointStore, load
from mptrain.errors import ConfigError
from mptrain.interfaces import IGNORED_PIXEL, IGNORED_TOKEN, Batch, Task, map_tensors
from mptrain.tasks.language_modelling import LanguageModelling
from mptrain.trainer.build import build_run
from mptrain.trainer.memory_plan import held_bytes
from mptrain.trainer.micro_batch import FittingMicroBatch, MicroBatch, even_size, piece_sizes
from mptrain.trainer.out_of_memory import ran_out_of_memory
from mptrain.trainer.step import TrainStep, part_of_loss
from tests.trainer.runs import build, config, fitted, merged, registered, same, trainer, weights
from tests.trainer.test_host_reads import reads_in_50_steps

CONFIGS = Path(__file__).parents[2] / "configs"
KINDS = {
    "classification": "mlp",
    "regression": "tabular",
    "segmentation": "segmentation",
    "detection": "detection",
    "language_modelling": "gpt",
    "translation": "translation",
    "transcription": "speech_ctc",
}
TOLERANCE = {"fp64": 1e-12, "fp32": 1e-5}


def oom(*attempts):
    return {"debug": {"plant": [{"what": "oom", "at": at} for at in attempts]}}


def with_size(size, changes=None):
    return merged(changes or {}, {"train": {"micro_batch": size}})


def farthest(first, second):
    pairs = zip(weights(first.run), weights(second.run), strict=True)
    return max((a.double() - b.double()).abs().max().item() for a, b in pairs)


def smaller(made):
    return [(event.data["from"], event.data["to"]) for event in made.reporter.events if event.kind == "micro_batch"]


@pytest.mark.parametrize(
    ("batch", "at_most", "size"), [(8, 4, 4), (9, 4, 3), (5, 4, 3), (3, 2, 2), (4, 9, 4), (7, 1, 1)]
)
def test_pieces_are_even_and_no_larger_than_asked(batch, at_most, size):
    assert even_size(batch, at_most) == size
    whole = Batch((torch.arange(batch), torch.arange(2 * batch).view(batch, 2)), torch.arange(batch))
    pieces = MicroBatch(at_most).pieces(whole)
    assert all(piece.size <= at_most for piece in pieces)
    assert torch.equal(torch.cat([piece.targets for piece in pieces]), whole.targets)
    assert torch.equal(torch.cat([piece.inputs[1] for piece in pieces]), whole.inputs[1])
    assert {piece.size for piece in pieces} == piece_sizes({batch}, at_most)


def test_a_size_that_is_found_is_a_multiple_of_what_the_products_want():
    told, made = [], FittingMicroBatch(torch.device("cpu"), lambda old, new: told.append((old, new)))
    made.multiple = 16
    batch = Batch(torch.zeros(100, 2), torch.zeros(100))

    def compute():
        assert all(piece.size % 16 == 0 or piece.size % 16 == 100 % 16 for piece in made.pieces(batch))
        raise torch.OutOfMemoryError("never fits")

    with pytest.raises(torch.OutOfMemoryError):
        made.within_memory([batch], compute, lambda: None)
    assert told == [(100, 64), (64, 32), (32, 16)]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_task_has_the_gradients_of_the_whole(kind):
    changes = ["precision=fp64", "data.batch_size=5", "train.accumulate=2", "train.clip_norm=null", "device=cpu"]
    dropout = ["model.dropout=0.0"] if kind not in ("regression", "segmentation", "detection") else []
    loaded = load_config(CONFIGS / f"{KINDS[kind]}.yaml", [*changes, *dropout]).config
    assert loaded.task.name == kind
    found = {}
    for size in (None, 2):
        run = build_run(loaded)
        for module in run.parts.model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()  # over a piece it normalises otherwise, and says so
        batches = run.train_loader.epoch(0)
        window = [partly_ignored(kind, next(batches)) for _ in range(2)]
        TrainStep(run.parts, lambda loss: loss, MicroBatch(size))(window)
        gradients = [p.grad for p in run.parts.model.parameters() if p.grad is not None]
        found[size] = torch.cat([g.flatten() for g in gradients]), run.parts.scaler.outcome.loss.clone()
    torch.testing.assert_close(found[2], found[None], rtol=1e-6, atol=1e-12 * found[None][0].abs().max().item())
    error = (found[2][0] - found[None][0]).norm() / found[None][0].norm()
    assert error < 1e-11


def partly_ignored(kind, batch):
    """Let the samples of a batch count for different numbers of pixels or tokens: one for none."""
    mark = {"segmentation": IGNORED_PIXEL, "language_modelling": IGNORED_TOKEN}.get(kind)
    if mark is None:
        return batch
    targets = batch.targets.clone()
    targets[0] = mark
    targets[1, : targets.shape[1] // 2] = mark
    return batch._replace(targets=targets)


def test_a_task_with_a_loss_of_its_own_is_a_mean_over_samples_again():
    class Weighted(LanguageModelling):
        def loss(self, model, batch):
            return 2 * model(batch.inputs).mean()

    class Both(Weighted):
        def part_of_loss(self, model, part, whole):
            return "own"

    class Neither(LanguageModelling):
        pass

    batch = Batch(torch.arange(4.0), torch.arange(4))
    own = part_of_loss(Weighted(4, None, None))
    assert own(lambda inputs: inputs, Batch(batch.inputs[:1], batch.targets[:1]), batch) == 0
    assert own(lambda inputs: inputs, Batch(batch.inputs[3:], batch.targets[3:]), batch) == 6 / 4
    assert part_of_loss(Both(4, None, None))(None, batch, batch) == "own"
    assert part_of_loss(Neither(4, None, None)).__func__ is LanguageModelling.part_of_loss


@pytest.mark.parametrize("made", [[1.0], {"loss": 1.0}, 0.5, torch.ones(2)])
def test_what_is_no_loss_is_refused_in_pieces_as_it_is_whole(made):
    class Odd(Task):
        def loss(self, model, batch):
            return made

    run = build(with_size(2))
    window = [next(run.train_loader.epoch(0))]
    object.__setattr__(run.parts, "task", Odd())
    with pytest.raises(ConfigError, match="its loss must be one number"):
        TrainStep(run.parts, lambda loss: loss, MicroBatch(2))(window)


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("mode", ["fp64", "fp32"])
def test_out_of_memory_in_mid_run_changes_no_more_than_the_size(mode, accumulate):
    base = {"precision": {"mode": mode}, "train": {"max_steps": 12, "accumulate": accumulate, "clip_norm": 1.0}}
    whole, half = fitted(base), fitted(with_size(4, base))
    found = fitted(with_size("auto", {**base, **oom(5)}))
    assert smaller(found) == [(8, 4)]
    assert found.micro_batch.size == 4
    assert farthest(found, half) <= TOLERANCE[mode]
    assert farthest(found, whole) <= TOLERANCE[mode]
    assert found.ledger.counts == half.ledger.counts
    assert found.position == half.position
    losses = [[window.loss for window in made.reporter.windows] for made in (found, half)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_it_halves_until_it_fits():
    found = fitted(with_size("auto", oom(2, 2, 7)))
    assert smaller(found) == [(8, 4), (4, 2), (2, 1)]
    assert farthest(found, fitted()) <= 1e-5


BUSY = {
    "model": {"norm": "batch", "dropout": 0.3},
    "train": {"accumulate": 2, "max_steps": 8},
    "log": {"numerics_every": 1},
    "ema": 0.9,
}


@pytest.mark.parametrize(
    "precision",
    [
        {"mode": "fp32"},
        {"mode": "fp16"},
        {"mode": "fp16", "backend": "emulated"},
        {"mode": "fp8", "backend": "emulated"},
        {"mode": "bf16-master"},
        {"mode": "bf16-pure", "rounding": "stochastic"},
    ],
    ids=str,
)
def test_the_attempt_that_ran_out_leaves_no_trace(precision):
    # From the first attempt on the pieces are the same, so everything is, bit by bit: dropout's draws, the statistics
    # of BatchNorm, the average, the loss scale, and what the numerics counted.
    base = {**BUSY, "precision": precision}
    found, half = fitted(with_size("auto", {**base, **oom(1)})), fitted(with_size(4, base))
    assert same(weights(found.run), weights(half.run))
    assert found.metrics == half.metrics
    assert found.final_loss_scale() == half.final_loss_scale()
    samples = [[e.data for e in made.reporter.events if e.kind == "numerics"] for made in (found, half)]
    assert len(samples[0]) == 8
    assert samples[0] == samples[1]


class Crowded(nn.Module):
    """Has no memory for more than `most` samples: in the forward, or in the backward of a later call."""

    most, where, calls = 2, "forward", 0

    def __init__(self, norm=None):
        super().__init__()
        self.layer, self.norm = nn.Linear(8, 4), norm or nn.BatchNorm1d(4)

    def forward(self, inputs):
        Crowded.calls += 1
        hidden = self.norm(self.layer(nn.functional.dropout(inputs, 0.2, self.training)))
        if self.training and len(inputs) > Crowded.most:
            if Crowded.where == "forward":
                raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ... 9 bytes")
            if Crowded.calls % 3 == 0:  # others of the window have left their gradients by then
                hidden.register_hook(self.fail)
        return hidden

    @staticmethod
    def fail(gradient):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_a_model_that_really_does_not_fit(where, monkeypatch):
    monkeypatch.setattr(Crowded, "where", where)
    monkeypatch.setattr(Crowded, "calls", 0)
    changes = {"model": "crowded", "train": {"max_steps": 6, "accumulate": 3}, "precision": {"mode": "fp64"}}
    with registered("crowded", lambda config, spec: Crowded()):
        found = fitted(with_size("auto", changes))
        half = fitted(with_size(2, changes))
    assert smaller(found) == [(8, 4), (4, 2)]
    assert farthest(found, half) == 0


def test_where_not_even_one_sample_fits_the_run_ends(monkeypatch):
    monkeypatch.setattr(Crowded, "most", 0)
    monkeypatch.setattr(Crowded, "where", "forward")
    plain = nn.Identity
    for norm, words, sizes in (
        (plain, "can't allocate memory", [(8, 4), (4, 2), (2, 1)]),
        (lambda: nn.BatchNorm1d(4), "and of one BatchNorm has no statistics", [(8, 4), (4, 2), (2, 1)]),
    ):
        with registered("crowded", lambda config, spec, norm=norm: Crowded(norm())):
            made = trainer(with_size("auto", {"model": "crowded", "train": {"max_steps": 6}}))
            with pytest.raises(RuntimeError, match=words) as caught:
                made.fit()
        assert ran_out_of_memory(caught.value)
        assert smaller(made) == sizes


def test_out_of_memory_in_the_optimizer_ends_the_run(monkeypatch):
    made = trainer(with_size("auto"))

    def step():
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(made.run.parts.optimizer, "step", step)
    with pytest.raises(torch.OutOfMemoryError):
        made.fit()
    assert smaller(made) == []


@pytest.mark.parametrize("mode", ["fp16", "fp16-master"])
def test_a_run_resumed_after_a_size_was_found_is_the_same(mode, tmp_path):
    base = merged(BUSY, {"train": {"max_steps": 12, "micro_batch": "auto"}, "precision": {"mode": mode}, **oom(3)})
    store = CheckpointStore(tmp_path / "checkpoints")
    whole = fitted(base)
    first = fitted(merged(base, {"train": {"stop_at_step": 7}}), store)
    second = trainer(base)
    second.restore(load(store.latest().path, device=torch.device("cpu")))
    assert second.micro_batch.size == first.micro_batch.size == 4
    second.fit()
    assert smaller(second) == []
    assert same(weights(second.run), weights(whole.run))
    # A number in the config stands, whatever was found before.
    third = trainer(with_size(3, base))
    third.restore(load(store.latest().path, device=torch.device("cpu")))
    assert third.micro_batch.size == 3


@pytest.mark.parametrize("mode", ["fp16-master", "bf16-master"])
def test_masters_take_gradients_that_were_summed_in_fp32(mode):
    base = {"train": {"max_steps": 1}, "precision": {"mode": mode}, "model": {"hidden": [64]}}
    made = fitted(with_size(1, base))
    held = held_bytes(made.run.parts)
    assert held.gradients == 4 * sum(p.numel() for p in made.run.parts.model.parameters())
    # The plan counts both, the low ones and their sums: the low ones are let go after each backward.
    assert made.run.memory.gradients >= held.gradients
    assert fitted(base).run.memory.gradients < made.run.memory.gradients


@pytest.mark.parametrize("size", [3, "auto"])
def test_no_step_reads_the_device(size):
    assert reads_in_50_steps(with_size(size, {"train": {"max_steps": 60, "accumulate": 2}})) == 0


def test_a_language_model_in_pieces_reads_nothing(tmp_path):
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog; " * 200)
    language = {
        "model": {"name": "gpt", "width": 16, "depth": 1, "heads": 2},
        "data": {"name": "text_files", "train": str(tmp_path / "text.txt"), "context": 4, "batch_size": 8},
        "task": "language_modelling",
    }
    assert reads_in_50_steps({**language, "train": {"max_steps": 60, "micro_batch": 3}}) == 0


@pytest.mark.parametrize(("size", "said"), [(None, False), (4, True), ("auto", True), (8, False)])
def test_batch_norm_is_pointed_out(size, said):
    notices = build(with_size(size, {"model": {"norm": "batch"}})).notices
    assert any("BatchNorm (1 in this model) normalises over" in notice for notice in notices) == said
    assert not any("BatchNorm" in notice for notice in build(with_size(size)).notices)


def test_summed_losses_and_soft_targets_and_several_inputs_are_cut_alike():
    summed = {"task": {"name": "classification", "reduction": "sum"}, "optimizer": {"name": "sgd", "lr": 0.002}}
    precise = {"precision": {"mode": "fp64"}, "data": {"num_train": 20, "drop_last": False}, **summed}
    assert farthest(fitted(with_size(3, precise)), fitted(precise)) <= 1e-12
    batch = Batch((torch.rand(5, 2), torch.rand(5)), (torch.rand(5, 3), torch.arange(5)))
    pieces = MicroBatch(2).pieces(batch)
    assert [piece.size for piece in pieces] == [2, 2, 1]
    joined = Batch(
        *(tuple(torch.cat(column) for column in zip(*part, strict=True)) for part in zip(*pieces, strict=True))
    )
    for part, whole in zip(joined, batch, strict=True):
        assert same(list(map_tensors(lambda t: t, part)), list(whole))


@pytest.mark.parametrize("wrong", [0, "half", 1.5, -1])
def test_other_values_are_refused(wrong):
    with pytest.raises(ConfigError, match=r"train\.micro_batch"):
        config(with_size(wrong))
