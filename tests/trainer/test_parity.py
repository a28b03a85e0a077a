"""The Trainer ends with the bits of a plain torch loop, so the wrapper adds nothing to the arithmetic."""

import threading

import pytest
import torch
from torch import nn
from torch.nn import functional

from mptrain.telemetry.console import Fanout
from mptrain.trainer.trainer import Trainer
from tests.trainer.runs import build, fitted, registered, same, trainer, weights

OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {"momentum": 0.9}),
    "adam": (torch.optim.Adam, {}),
    "adamw": (torch.optim.AdamW, {"weight_decay": 0.0}),
    "adagrad": (torch.optim.Adagrad, {}),
}


def plain_loop(changes, *, dtype=None, clip=None, accumulate=1, steps=20, scaled=None, smoothing=0.0):
    """The 15 lines a user would write, over the same batches; returns the final state."""
    run = build(changes)
    model = run.parts.model
    cls, arguments = OPTIMIZERS[run.config.optimizer.name]
    optimizer = cls(model.parameters(), lr=run.config.optimizer.lr, fused=True, **arguments)
    scaler = torch.amp.GradScaler("cpu", enabled=dtype is torch.float16 if scaled is None else scaled)
    double = next(model.parameters()).dtype is torch.float64
    done, epoch = 0, 0
    while done < steps:
        batches = list(run.train_loader.epoch(epoch))
        epoch += 1
        for start in range(0, len(batches), accumulate):
            window = batches[start : start + accumulate]
            optimizer.zero_grad()
            for batch in window:
                with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None, cache_enabled=False):
                    logits = model(batch.inputs.double()) if double else model(batch.inputs).float()
                    loss = functional.cross_entropy(logits, batch.targets, label_smoothing=smoothing)
                scaler.scale(loss / len(window) if len(window) > 1 else loss).backward()
            scaler.unscale_(optimizer)
            if clip:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            scaler.step(optimizer)
            scaler.update()
            done += 1
            if done == steps:
                break
    return [value.detach().clone() for value in model.state_dict().values()]


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
@pytest.mark.parametrize(("mode", "dtype"), [("fp32", None), ("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_same_bits_as_a_plain_loop(optimizer, mode, dtype):
    changes = {"optimizer": {"name": optimizer, "lr": 0.01}, "precision": {"mode": mode}}
    assert same(weights(fitted(changes).run), plain_loop(changes, dtype=dtype))


@pytest.mark.parametrize(("mode", "dtype"), [("fp32", None), ("fp16", torch.float16)])
def test_same_bits_with_clipping(mode, dtype):
    changes = {"train": {"clip_norm": 0.1}, "precision": {"mode": mode}}
    assert same(weights(fitted(changes).run), plain_loop(changes, dtype=dtype, clip=0.1))


@pytest.mark.parametrize(("mode", "dtype"), [("fp32", None), ("bf16", torch.bfloat16), ("fp16", torch.float16)])
@pytest.mark.parametrize("clip", [None, 0.1])
def test_same_bits_with_accumulation(mode, dtype, clip):
    changes = {"train": {"accumulate": 4, "clip_norm": clip}, "precision": {"mode": mode}}
    assert same(weights(fitted(changes).run), plain_loop(changes, dtype=dtype, clip=clip, accumulate=4))


def test_same_bits_in_fp64_with_label_smoothing_clipping_and_accumulation():
    changes = {
        "precision": {"mode": "fp64"},
        "task": {"name": "classification", "label_smoothing": 0.1},
        "train": {"clip_norm": 0.1, "accumulate": 2},
    }
    made = weights(fitted(changes).run)
    assert {value.dtype for value in made} == {torch.float64}
    assert same(made, plain_loop(changes, clip=0.1, accumulate=2, smoothing=0.1))


def test_same_bits_with_a_dynamic_scale_in_bf16():
    changes = {"precision": {"mode": "bf16", "loss_scale": {"kind": "dynamic"}}}
    assert same(weights(fitted(changes).run), plain_loop(changes, dtype=torch.bfloat16, scaled=True))


class Odd(nn.Module):
    """Tied weights, a frozen layer, a parameter that never gets a gradient, and dropout."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.first, self.tied = nn.Linear(width, width), nn.Linear(width, width)
        self.tied.weight = self.first.weight
        self.frozen = nn.Linear(width, width).requires_grad_(False)
        self.unused = nn.Parameter(torch.ones(3))
        self.head = nn.Linear(width, outputs)

    def forward(self, inputs):
        hidden = torch.relu(self.tied(torch.relu(self.first(inputs))))
        return self.head(functional.dropout(self.frozen(hidden), 0.2, self.training))


@pytest.mark.parametrize(("mode", "dtype"), [("fp32", None), ("fp16", torch.float16)])
@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_same_bits_with_tied_frozen_and_unused_parameters(optimizer, mode, dtype):
    changes = {"model": "odd", "optimizer": {"name": optimizer, "lr": 0.01}, "precision": {"mode": mode}}
    changes |= {"train": {"clip_norm": 0.5}, "ema": 0.9}
    with registered("odd", lambda config, spec: Odd(spec.input_shape[0], spec.num_outputs)):
        made = fitted(changes).run
        assert same(weights(made), plain_loop(changes, dtype=dtype, clip=0.5))
    assert made.parts.model.tied.weight is made.parts.model.first.weight
    assert torch.equal(made.parts.model.unused, torch.ones(3))


@pytest.mark.parametrize("mode", [pytest.param("fp32", marks=pytest.mark.slow), "bf16"])
def test_compiled_learns_as_eager_does(mode):
    # BatchNorm writes buffers that are views of one tensor; 20 samples in batches of 8 leave a short last one.
    changes = {
        "model": {"norm": "batch"},
        "data": {"num_train": 20, "drop_last": False},
        "optimizer": {"name": "sgd", "lr": 0.1},
        "precision": {"mode": mode},
        "debug": {"plant": [{"what": "inf_grad", "at": 2}]},
    }
    eager = fitted({**changes, "train": {"max_steps": 5}}).run.parts.model.state_dict()
    compiled = fitted({**changes, "train": {"max_steps": 5, "compile": True}}).run.parts.model.state_dict()
    assert compiled.keys() == eager.keys()
    for name, value in eager.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-5 if mode == "fp32" else 2e-2, atol=1e-6, msg=name)


def test_deterministic_runs_end_with_the_same_bits():
    changes = {"model": {"norm": "batch", "dropout": 0.3}, "train": {"deterministic": True}}
    assert same(weights(fitted(changes).run), weights(fitted(changes).run))


def test_the_trainer_serves_without_the_command_line_and_off_the_main_thread():
    made = Trainer(build(), Fanout([]))
    thread = threading.Thread(target=made.fit)
    thread.start()
    thread.join()
    assert same(weights(made.run), weights(fitted().run))
    assert made.metrics["samples"] == 50


def test_accumulated_micro_batches_give_the_gradient_of_the_large_batch():
    small = {"data": {"batch_size": 8}, "train": {"accumulate": 4, "max_steps": 3}, "optimizer": {"name": "sgd"}}
    large = {"data": {"batch_size": 32}, "train": {"max_steps": 3}, "optimizer": {"name": "sgd"}}
    for mine, reference in zip(weights(fitted(small).run), weights(fitted(large).run), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-6, atol=1e-7)


def test_a_short_last_window_is_the_mean_over_its_own_samples():
    # 10 micro-batches, windows of 4: two full windows and one of 2, whose gradient must be the mean of 2.
    changes = {
        "data": {"num_train": 80, "batch_size": 8},
        "train": {"epochs": 1, "max_steps": None, "accumulate": 4},
        "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.0},
    }
    made = fitted(changes)
    assert made.ledger.counts.applied == 3
    run = build(changes)
    model, batches = run.parts.model, list(run.train_loader.epoch(0))
    for window in (batches[:4], batches[4:8], batches[8:]):
        inputs = torch.cat([batch.inputs for batch in window])
        targets = torch.cat([batch.targets for batch in window])
        model.zero_grad()
        functional.cross_entropy(model(inputs), targets).backward()
        with torch.no_grad():
            for param in model.parameters():
                param -= 0.1 * param.grad
    for mine, reference in zip(weights(made.run), weights(run), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-5, atol=1e-7)


def test_a_short_last_micro_batch_weighs_by_its_samples():
    # 20 samples in micro-batches of 8, 8, 4 in one window: the mean over 20 samples, not over 3 means.
    changes = {
        "data": {"num_train": 20, "batch_size": 8, "drop_last": False},
        "train": {"max_steps": 1, "accumulate": 3},
        "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.0},
    }
    whole = {**changes, "data": {"num_train": 20, "batch_size": 20}, "train": {"max_steps": 1}}
    for mine, reference in zip(weights(fitted(changes).run), weights(fitted(whole).run), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("mode", ["fp32", "bf16", "fp16"])
def test_weights_gradients_and_moments_stay_fp32(mode):
    run = fitted({"precision": {"mode": mode}}).run
    optimizer_state = run.parts.optimizer.state_dict()["state"].values()
    tensors = [*run.parts.model.parameters(), *(p.grad for p in run.parts.model.parameters())]
    tensors += [value for state in optimizer_state for value in state.values()]
    assert {t.dtype for t in tensors} == {torch.float32}


def test_the_same_initial_weights_in_every_precision():
    first = weights(build({"precision": {"mode": "fp32"}}))
    assert same(first, weights(build({"precision": {"mode": "bf16"}})))
    assert same(first, [w.float() for w in weights(build({"precision": {"mode": "fp64"}}))])


def test_autocast_covers_forward_and_loss_only():
    made = trainer({"precision": {"mode": "bf16"}})
    parts, seen = made.run.parts, {}

    def note(where):
        seen.setdefault(where, torch.is_autocast_enabled("cpu"))

    parts.model.register_forward_hook(lambda *_: note("forward"))
    next(parts.model.parameters()).register_hook(lambda _: note("backward"))
    inner = parts.optimizer.step

    def step():
        note("step")
        return inner()

    parts.optimizer.step = step
    made.fit()
    assert seen == {"forward": True, "backward": False, "step": False}
